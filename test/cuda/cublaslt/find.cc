// Searches for cuBLASLt as the addon does, and prints its version and file, or why there is none. With "list": prints
// where the search looks.
#include <cstdio>
#include <cstring>

#include "kernels/cuda/cublaslt.h"

int main(int count, char** words) {
  if (count > 1 && !std::strcmp(words[1], "list")) {
    for (const std::string& file : mt::cuda::cublaslt::candidates()) std::printf("%s\n", file.c_str());
    return 0;
  }
  std::string why;
  const mt::cuda::cublaslt::Library* library = mt::cuda::cublaslt::open(why);
  if (library) std::printf("%s %s\n", library->version.c_str(), library->path.c_str());
  else std::printf("none: %s\n", why.c_str());
}
