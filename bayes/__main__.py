"""``python -m bayes`` is the command ``bayes``."""

from bayes.cli import main

if __name__ == "__main__":
    main()
