"""A text inside a .tflite file, where TensorFlow Lite keeps its own metadata; it stays loadable by all."""

from __future__ import annotations

from yolo_core.export.base import toolkit
from yolo_core.export.metadata import METADATA_KEY

_FLATBUFFERS = "tensorflow.lite.tools.flatbuffer_utils"
_SCHEMA = "tensorflow.lite.python.schema_py_generated"


def write_text(content: bytes, text: str) -> bytes:
    """Return a model with a text under the project's key."""
    buffers = toolkit(_FLATBUFFERS, "tflite")
    schema = toolkit(_SCHEMA, "tflite")
    model = buffers.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(text.encode())
    entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return bytes(buffers.convert_object_to_bytearray(model))


def read_text(content: bytes) -> bytes | None:
    """Return the text under the project's key, None where there is none."""
    model = toolkit(_SCHEMA, "tflite").Model.GetRootAs(content)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == METADATA_KEY.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
    return None
