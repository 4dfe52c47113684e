"""The commands. What they can do, a program that imports the package can, too."""
