"""The commands of the command line, a module each: `add` puts it on the parser."""
