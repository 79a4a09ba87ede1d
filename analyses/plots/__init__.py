"""Statistics and figures that several questions share."""
