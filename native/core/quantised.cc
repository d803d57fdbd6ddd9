#include "core/quantised.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace mt {

const float* dynamic_map() {
  static const std::array<float, 256> map = [] {
    std::array<float, 256> m{};
    size_t n = 0;
    const float first = 0.1f, last = 1.0f;
    for (int i = 0; i < 7; ++i) {
      const int parts = 1 << i;
      const float step = (last - first) / float(parts), power = float(std::pow(10.0, i - 6));
      auto edge = [&](int e) {
        return e < (parts + 1) / 2 + (parts == 1) ? std::fma(step, float(e), first)
                                                  : std::fma(-step, float(parts - e), last);
      };
      for (int e = 0; e < parts; ++e) {
        const float middle = power * ((edge(e) + edge(e + 1)) / 2);
        m[n++] = middle, m[n++] = -middle;
      }
    }
    m[n++] = 0, m[n++] = 1;
    std::sort(m.begin(), m.end());
    return m;
  }();
  return map.data();
}

}  // namespace mt
