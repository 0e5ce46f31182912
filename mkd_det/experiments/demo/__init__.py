"""The demo: three ordinary training runs, shown together. See tools/demo.py."""
