// What each scored token gave a copy of llama-perplexity: its KL divergence, and ln(p of the base / p) of the true token.
// They go to the file that GGUFKIT_SCORES names, if it names one: how many, in 8 bytes; then those, and these, as floats.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace ggufkit {

inline thread_local float last_ln_ratio;  // of the token that a thread is at

class Scores {
public:
    // There will be `n` tokens, each known by where its divergence is stored.
    void begin(const float * kld, size_t n) {
        first = kld;
        ln_ratio.assign(n, 0.0f);
    }

    void keep(const float * kld) { ln_ratio[kld - first] = last_ln_ratio; }

    void end(const std::vector<float> & kld) const {
        const char * const path = std::getenv("GGUFKIT_SCORES");
        std::FILE * const file = path == nullptr ? nullptr : std::fopen(path, "wb");
        if (file == nullptr) {
            return;
        }
        const uint64_t n = kld.size();
        const bool written = std::fwrite(&n, sizeof(n), 1, file) == 1
            && std::fwrite(kld.data(), sizeof(float), n, file) == n
            && std::fwrite(ln_ratio.data(), sizeof(float), n, file) == n;
        if (std::fclose(file) != 0 || !written) {
            std::remove(path);
        }
    }

private:
    const float * first = nullptr;
    std::vector<float> ln_ratio;
};

inline Scores scores;

}  // namespace ggufkit
