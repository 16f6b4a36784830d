"""Ways to ask for a description, long or short. The wording varies so that a model learns the wish, not the words."""

from __future__ import annotations

DETAIL = (
    "Describe the picture in detail.",
    "Tell me everything that you see here.",
    "What does this picture show? Take your time and leave nothing out.",
    "Go through the picture and describe all of it.",
    "Describe the picture so well that somebody could draw it again.",
    "Give a full account of what is in this picture.",
    "Please write a long description of this picture.",
    "Look closely: what is there, and where?",
    "What can be seen in this picture, from one side to the other?",
    "Describe what you see as exactly as you can.",
    "Walk me through this picture, one thing after the other.",
    "Which things are in the picture, what do they look like and where are they?",
)
BRIEF = (
    "Describe the picture briefly.",
    "What is this, in one sentence?",
    "Give a short caption for this picture.",
    "Say in a few words what you see.",
    "Sum up the picture in one line.",
    "What does the picture show? Be brief.",
    "Write a short description of this picture.",
    "In short, what is in the picture?",
    "Name the main things in this picture.",
    "One sentence, please: what can be seen here?",
    "Tell me quickly what this picture shows.",
    "Put this picture into a few plain words.",
)
