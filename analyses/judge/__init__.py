"""How faithful is a caption to what is heard and seen, and who says so?"""
