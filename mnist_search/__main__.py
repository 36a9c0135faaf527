"""``python -m mnist_search`` is ``mnist-search``."""

from mnist_search.cli.app import main

if __name__ == "__main__":
    main()
