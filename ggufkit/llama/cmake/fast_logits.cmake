# A copy of llama-perplexity's source in which a GPU waits less for the host; the values stay the same.
#
# Two loops of the KL divergence look for the largest value and sum at once, which no compiler vectorizes: the search is
# taken out of them. And the base's logits, 300 kB for each token of a large vocabulary, may go through shared memory.
#
# As a script: cmake -DSOURCE=perplexity.cpp -DTO=copy.cpp -P fast_logits.cmake

set(GGUFKIT_PARTS SEARCH_LOGITS SEARCH_BASE WRITTEN READ)

set(GGUFKIT_OWN_SEARCH_LOGITS [==[
    float max_logit = logits[0];
    int imax = 0;
    for (int i = 1; i < n_vocab; ++i) {
        if (logits[i] > max_logit) {
            max_logit = logits[i];
            imax = i;
        }
    }
]==])
set(GGUFKIT_FAST_SEARCH_LOGITS [==[
    const int imax = ggufkit::first_largest(n_vocab, logits);
    float max_logit = logits[imax];
]==])

set(GGUFKIT_OWN_SEARCH_BASE [==[
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
set(GGUFKIT_FAST_SEARCH_BASE [==[
    const int imax_base = ggufkit::first_largest(n_vocab, base_log_prob);
    for (int i = 0; i < n_vocab; ++i) {
        const float p_log_base = scale*base_log_prob[i] + min_log_prob;
        const float p_base = expf(p_log_base);
        const float term = p_base * (p_log_base - logits[i] + max_logit);
        sum += p_log_base > -16.f ? term : 0.f;
    }
]==])

set(GGUFKIT_OWN_WRITTEN "    std::ofstream logits_stream;\n")
set(GGUFKIT_FAST_WRITTEN "    ggufkit::LogitsOut logits_stream;\n")

set(GGUFKIT_OWN_READ "    std::ifstream in(params.logits_file.c_str(), std::ios::binary);\n")
set(GGUFKIT_FAST_READ "    ggufkit::LogitsIn in(params.logits_file.c_str(), std::ios::binary);\n")

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
    foreach(header first_largest.h shared_ring.h)
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
