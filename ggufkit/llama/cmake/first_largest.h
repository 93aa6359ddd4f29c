// Where the first of the largest values is, found with vector instructions: lanes side by side, then a plain search.

#pragma once

#include <algorithm>

namespace ggufkit {

template <typename T>
int first_largest(int n, const T * values) {
    constexpr int n_lanes = 32;
    T lanes[n_lanes];
    std::fill_n(lanes, n_lanes, values[0]);
    int i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int lane = 0; lane < n_lanes; ++lane) {
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
        }
    }
    T largest = lanes[0];
    for (const T value : lanes) {
        largest = value > largest ? value : largest;
    }
    for (; i < n; ++i) {
        largest = values[i] > largest ? values[i] : largest;
    }
    const T * const found = std::find(values, values + n, largest);
    return found == values + n ? 0 : int(found - values);
}

}  // namespace ggufkit
