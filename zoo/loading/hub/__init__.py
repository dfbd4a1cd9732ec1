"""Resolve revisions of the Hugging Face Hub, download and verify their files, upload folders.

Endpoint, token, offline mode and the folder of downloads are huggingface_hub's own (HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE). What is kept beside lies in `cache_folder()`:

    models--org--name/snapshots/{revision or commit}.json    which files there are, their hashes
    models--org--name/verified/{hash}.json                   size and time of a verified download
    models--org--name/{key}.safetensors                      a conversion
    models--org--name/conversions.lock                       held by the process that converts
"""
