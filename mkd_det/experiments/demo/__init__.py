"""The demo: three ordinary trainings, shown together."""
