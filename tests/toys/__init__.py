"""Three small tasks and the parity data they train on: the contracts of design section 3, proved before real ones."""
