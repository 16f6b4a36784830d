"""Pictures whose every fact is known: drawn scenes, what can be said and asked about them. numpy and Pillow only."""
