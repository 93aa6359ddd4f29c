// What llama-perplexity does with each logit of a large vocabulary: the largest, the sum of exponentials, the divergence.
// GCC makes vector instructions of these loops, given -fassociative-math and -march=native.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>

namespace ggufkit {

constexpr int n_lanes = 64;    // compared side by side
constexpr int n_block = 2048;  // searched at once, or summed in single precision before double takes over

// Threads besides the own for so many logits at a time: to start one takes as long as a part of a million does.
inline size_t n_helpers(size_t n_logits) {
    const size_t n_processors = std::max(1u, std::thread::hardware_concurrency());
    return std::min(n_processors - 1, n_logits >> 20);
}

// Where the first of the largest values is.
template <typename T>
int first_largest(int n, const T * values) {
    int where = 0;
    T largest = values[0];
    for (int begin = 0; begin < n; begin += n_block) {
        const int end = std::min(n, begin + n_block);
        T lanes[n_lanes];
        std::fill_n(lanes, n_lanes, largest);
        int i = begin;
        for (; i + n_lanes <= end; i += n_lanes) {
            for (int lane = 0; lane < n_lanes; ++lane) {
                lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
            }
        }
        T most = largest;
        for (; i < end; ++i) {
            most = values[i] > most ? values[i] : most;
        }
        for (const T value : lanes) {
            most = value > most ? value : most;
        }
        if (most > largest) {
            largest = most;
            where = begin;
        }
    }
    const T * const end = values + std::min(n, where + n_block);
    const T * const found = std::find(values + where, end, largest);
    return found == end ? where : int(found - values);
}

// The least and the largest value.
struct Range {
    float least, largest;
};

inline Range range_of(int n, const float * values) {
    float low[n_lanes], high[n_lanes];
    std::fill_n(low, n_lanes, values[0]);
    std::fill_n(high, n_lanes, values[0]);
    int i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int lane = 0; lane < n_lanes; ++lane) {
            low[lane] = values[i + lane] < low[lane] ? values[i + lane] : low[lane];
            high[lane] = values[i + lane] > high[lane] ? values[i + lane] : high[lane];
        }
    }
    for (; i < n; ++i) {
        low[0] = std::min(low[0], values[i]);
        high[0] = std::max(high[0], values[i]);
    }
    return {*std::min_element(low, low + n_lanes), *std::max_element(high, high + n_lanes)};
}

// exp(x) for x up to 88, to some 1e-7 of itself where multiplying and adding are one instruction; what is below -87 is next
// to nothing. NaN stays NaN.
inline float exp_of(float x) {
    x = x < -87.f ? -87.f : x;
    const float shifted = x*1.44269504f + 12582912.f;  // 1.5 x 2^23: what is left of the fraction's bits is an integer
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    const int32_t n = int32_t(uint32_t(bits) - 0x4b400000u);
    const float r = x - float(n)*0.693147181f;
    float p = 1.9875691500e-4f;  // the polynomial of Cephes' expf
    p = p*r + 1.3981999507e-3f;
    p = p*r + 8.3334519073e-3f;
    p = p*r + 4.1665795894e-2f;
    p = p*r + 1.6666665459e-1f;
    p = p*r + 5.0000001201e-1f;
    p = p*(r*r) + r + 1.f;
    const uint32_t power = uint32_t(n + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, sizeof(scale));
    return p*scale;
}

// The sum of term(0) to term(n - 1).
template <typename Term>
double sum_of(int n, Term term) {
    double sum = 0;
    for (int begin = 0; begin < n; begin += n_block) {
        const int end = std::min(n, begin + n_block);
        float part = 0;
        for (int i = begin; i < end; ++i) {
            part += term(i);
        }
        sum += part;
    }
    return sum;
}

// The sum of exp(logit - largest).
inline double sum_of_exponentials(int n, const float * logits, float largest) {
    return sum_of(n, [=](int i) { return exp_of(logits[i] - largest); });
}

// The sum of p (log p - log q) over the base's probabilities p = exp(scale*stored + least) above exp(-16); log q is a
// logit less `whole`.
inline double divergence(int n, const uint16_t * stored, float scale, float least, const float * logits, float whole) {
    return sum_of(n, [=](int i) {
        const float log_p = scale*stored[i] + least;
        const float term = exp_of(log_p)*(log_p - logits[i] + whole);
        return log_p > -16.f ? term : 0.f;
    });
}

}  // namespace ggufkit
