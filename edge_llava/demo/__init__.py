"""Sample pictures of the demo: `table.jpg`, a drawn still life with an apple, a mug, an orange and a knife."""
