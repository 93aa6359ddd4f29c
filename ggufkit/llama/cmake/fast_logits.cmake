# A copy of llama-perplexity's source in which a GPU waits less for the host.
#
# Its loops over all logits of a token are replaced by those of fast_sums.h, which a compiler can vectorize: it looks for
# the largest value in order, or while it sums, and calls expf. Its threads, which it starts anew for each chunk, are fewer
# for small vocabularies. And the base's logits, 300 kB for each token of a large vocabulary, may go through shared memory,
# where they are written and read without a copy.
#
# As a script: cmake -DSOURCE=perplexity.cpp -DTO=copy.cpp -P fast_logits.cmake

set(GGUFKIT_PARTS LARGEST RANGE SEARCH EXPONENTIALS DIVERGENCE HELPERS HELPERS_READING
    OUT WRITER WRITES WRITES_AT SENDS IN READER READS READS_AT TAKES COMPARES)

set(GGUFKIT_OWN_LARGEST [==[
    float max_logit = logits[0];
    for (int i = 1; i < n_vocab; ++i) {
        max_logit = std::max(max_logit, logits[i]);
    }
]==])
set(GGUFKIT_FAST_LARGEST [==[
    const float max_logit = ggufkit::range_of(n_vocab, logits).largest;
]==])

set(GGUFKIT_OWN_RANGE [==[
    float max_logit = logits[0];
    float min_logit = logits[0];
    for (int i = 1; i < n_vocab; ++i) {
        max_logit = std::max(max_logit, logits[i]);
        min_logit = std::min(min_logit, logits[i]);
    }
]==])
set(GGUFKIT_FAST_RANGE [==[
    auto [min_logit, max_logit] = ggufkit::range_of(n_vocab, logits);
]==])

set(GGUFKIT_OWN_SEARCH [==[
    float max_logit = logits[0];
    int imax = 0;
    for (int i = 1; i < n_vocab; ++i) {
        if (logits[i] > max_logit) {
            max_logit = logits[i];
            imax = i;
        }
    }
]==])
set(GGUFKIT_FAST_SEARCH [==[
    const int imax = ggufkit::first_largest(n_vocab, logits);
    float max_logit = logits[imax];
]==])

set(GGUFKIT_OWN_EXPONENTIALS [==[
    double sum_exp = 0.0;
    for (int i = 0; i < n_vocab; ++i) {
        sum_exp += expf(logits[i] - max_logit);
    }
]==])
set(GGUFKIT_FAST_EXPONENTIALS [==[
    const double sum_exp = ggufkit::sum_of_exponentials(n_vocab, logits, max_logit);
]==])

set(GGUFKIT_OWN_DIVERGENCE [==[
    double sum = 0;
    int imax_base = -1;
    float p_log_base_max = 0;
    for (int i = 0; i < n_vocab; ++i) {
        const float p_log_base = scale*base_log_prob[i] + min_log_prob;
        if (i == 0 || p_log_base > p_log_base_max) {
            p_log_base_max = p_log_base;
            imax_base = i;
        }
        if (p_log_base > -16.f) {
            const float p_base = expf(p_log_base);
            sum += p_base * (p_log_base - logits[i] + max_logit);
        }
    }
]==])
set(GGUFKIT_FAST_DIVERGENCE [==[
    const int imax_base = ggufkit::first_largest(n_vocab, base_log_prob);
    const double sum = ggufkit::divergence(n_vocab, base_log_prob, scale, min_log_prob, logits, max_logit);
]==])

set(GGUFKIT_OWN_HELPERS [==[
batch_size=%d, n_seq=%d\n", __func__, n_chunk, n_ctx, n_batch, n_seq);

    std::vector<std::thread> workers(std::thread::hardware_concurrency() - 1);

    std::vector<uint16_t> log_probs;
]==])
set(GGUFKIT_FAST_HELPERS [==[
batch_size=%d, n_seq=%d\n", __func__, n_chunk, n_ctx, n_batch, n_seq);

    std::vector<std::thread> workers(ggufkit::n_helpers(size_t(n_ctx/2)*n_vocab));

    std::vector<uint16_t> log_probs;
]==])
set(GGUFKIT_OWN_HELPERS_READING [==[
    std::vector<std::thread> workers(std::thread::hardware_concurrency() - 1);

    auto mean_and_uncertainty = [] (double sum, double sum2, size_t count) {
]==])
set(GGUFKIT_FAST_HELPERS_READING [==[
    std::vector<std::thread> workers(ggufkit::n_helpers(size_t(n_ctx/2)*n_vocab));

    auto mean_and_uncertainty = [] (double sum, double sum2, size_t count) {
]==])

set(GGUFKIT_OWN_OUT "    std::ofstream logits_stream;\n")
set(GGUFKIT_FAST_OUT "    ggufkit::LogitsOut logits_stream;\n")

set(GGUFKIT_OWN_WRITER "static void process_logits(std::ostream& out, int n_vocab,")
set(GGUFKIT_FAST_WRITER "static void process_logits(ggufkit::LogitsOut& out, int n_vocab,")

set(GGUFKIT_OWN_WRITES [==[
    auto compute = [&mutex, &counter, &log_probs, &nll, &nll2, n_vocab, logits, tokens, n_token, nv] () {
]==])
set(GGUFKIT_FAST_WRITES [==[
    uint16_t * const rows = out.rows(log_probs, size_t(n_token)*nv);
    auto compute = [&mutex, &counter, rows, &nll, &nll2, n_vocab, logits, tokens, n_token, nv] () {
]==])
set(GGUFKIT_OWN_WRITES_AT "log_softmax(n_vocab, logits + size_t(i)*n_vocab, log_probs.data() + size_t(i)*nv, tokens[i+1])")
set(GGUFKIT_FAST_WRITES_AT "log_softmax(n_vocab, logits + size_t(i)*n_vocab, rows + size_t(i)*nv, tokens[i+1])")

set(GGUFKIT_OWN_SENDS "    out.write((const char *)log_probs.data(), size_t(n_token)*nv*sizeof(uint16_t));\n")
set(GGUFKIT_FAST_SENDS "    out.send(log_probs, rows, size_t(n_token)*nv);\n")

set(GGUFKIT_OWN_IN "    std::ifstream in(params.logits_file.c_str(), std::ios::binary);\n")
set(GGUFKIT_FAST_IN "    ggufkit::LogitsIn in(params.logits_file.c_str(), std::ios::binary);\n")

set(GGUFKIT_OWN_READER "std::vector<std::thread> & workers, const std::vector<uint16_t> & base_log_probs,")
set(GGUFKIT_FAST_READER "std::vector<std::thread> & workers, const uint16_t * base_log_probs,")

set(GGUFKIT_OWN_READS "    auto compute = [&mutex, &counter, &base_log_probs, &kld,")
set(GGUFKIT_FAST_READS "    auto compute = [&mutex, &counter, base_log_probs, &kld,")

set(GGUFKIT_OWN_READS_AT "base_log_probs.data() + size_t(i)*nv")
set(GGUFKIT_FAST_READS_AT "base_log_probs + size_t(i)*nv")

set(GGUFKIT_OWN_TAKES [==[
            if (in.read((char *)log_probs_uint16.data(), log_probs_uint16.size()*sizeof(uint16_t)).fail()) {
]==])
set(GGUFKIT_FAST_TAKES [==[
            const uint16_t * const base_log_probs = in.rows(log_probs_uint16);
            if (base_log_probs == nullptr) {
]==])
set(GGUFKIT_OWN_COMPARES "workers, log_probs_uint16, kld, kld_ptr, p_diff_ptr)")
set(GGUFKIT_FAST_COMPARES "workers, base_log_probs, kld, kld_ptr, p_diff_ptr)")

# Write the copy; `done` is false where a part is not found: then this is another llama.cpp than the one pinned.
function(ggufkit_fast_logits source to done)
    file(READ "${source}" text)
    foreach(part IN LISTS GGUFKIT_PARTS)
        string(FIND "${text}" "${GGUFKIT_OWN_${part}}" found)
        if(found EQUAL -1)
            message(STATUS "ggufkit: llama-perplexity is not the known one; it stays as it is")
            set(${done} FALSE PARENT_SCOPE)
            return()
        endif()
        string(REPLACE "${GGUFKIT_OWN_${part}}" "${GGUFKIT_FAST_${part}}" text "${text}")
    endforeach()
    set(additions "")
    foreach(header fast_sums.h shared_ring.h)
        string(APPEND additions "#include \"${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${header}\"\n")
    endforeach()
    file(WRITE "${to}" "${additions}${text}")
    set(${done} TRUE PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
    ggufkit_fast_logits("${SOURCE}" "${TO}" DONE)
    if(NOT DONE)
        message(FATAL_ERROR "${SOURCE} is another llama-perplexity.")
    endif()
endif()
