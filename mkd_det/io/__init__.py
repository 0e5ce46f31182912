"""Files and the process: reading and writing safely, quiet libraries, random states."""
