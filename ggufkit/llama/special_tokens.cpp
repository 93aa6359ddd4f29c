// Stands before libllama's llama_tokenize, in a process that is to parse special tokens in its text.
//
// llama-perplexity tokenizes its text without, and has no option for it. Loaded with LD_PRELOAD.

#include <cstdint>
#include <cstdio>
#include <dlfcn.h>

struct llama_vocab;

using Tokenize = int32_t (*)(const llama_vocab *, const char *, int32_t, int32_t *, int32_t, bool, bool);

extern "C" int32_t llama_tokenize(const llama_vocab * vocab, const char * text, int32_t length, int32_t * tokens,
                                  int32_t n_max, bool add_special, bool parse_special) {
    static const auto own = reinterpret_cast<Tokenize>(dlsym(RTLD_NEXT, "llama_tokenize"));
    if (!parse_special) {
        std::fputs("ggufkit: special tokens are parsed\n", stderr);
    }
    return own(vocab, text, length, tokens, n_max, add_special, true);
}
