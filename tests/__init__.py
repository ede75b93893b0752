"""The tests mirror src/calotype; `contracts` holds one shared test class per kind of plug-in."""
