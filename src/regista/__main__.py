"""``python -m regista``: the same as the command ``regista``."""

from regista.cli import main

if __name__ == "__main__":
    main()
