"""`python -m selfstudy_engine.cli`, for where the script isn't on the PATH."""

from selfstudy_engine.cli.main import main

if __name__ == "__main__":
    main()
