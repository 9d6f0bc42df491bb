// How libtorch was built, as text: TORCH_VERSION=, CUDA_VERSION=, the GPU architectures. tch has no
// call for it. Declared here as ATen/Version.h does, so that no header of libtorch is compiled.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

namespace at {
std::string show_config();
}

// Copies at most `capacity` bytes to `out`; returns how many. Throws nothing.
extern "C" std::size_t consilium_show_config(char* out, std::size_t capacity) noexcept {
  try {
    const std::string text = at::show_config();
    const std::size_t length = std::min(capacity, text.size());
    std::memcpy(out, text.data(), length);
    return length;
  } catch (...) {
    return 0;
  }
}
