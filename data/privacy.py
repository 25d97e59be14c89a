"""What processes that we start get of our environment: telemetry off, none of our secrets."""

import os

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # What those may bring along who track rounds, or serve over several nodes.
    "GRADIO_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variables by which our libraries send nothing about their use."""
SERVER_KEY_VARIABLE = "SELFSTUDY_SERVER_KEY"
"""Environment variable: the key of a server that is running, or will be."""
TEACHER_KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable: the key of a teacher."""


SECRETS = (
    *(SERVER_KEY_VARIABLE, TEACHER_KEY_VARIABLE),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Environment variables that nothing we start gets: keys of servers, and of the S3 bucket that
keeps a run."""


def turn_telemetry_off() -> None:
    """Set the variables for this process too; before the libraries are imported."""
    os.environ.update(TELEMETRY_OFF)


def child_environment() -> dict[str, str]:
    """Return our environment for a child: without our keys, and with telemetry off."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return kept | TELEMETRY_OFF
