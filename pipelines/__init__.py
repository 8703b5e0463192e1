"""The pipeline as data, and one translator per orchestrator."""

# Name and version of the container images; a stage's Dockerfile target is added: IMAGE-target.
IMAGE = "yolo-mlops:0.1.0"
