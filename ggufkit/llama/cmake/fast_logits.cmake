# Two loops of llama-perplexity's KL divergence look for the largest value and sum at once, which no compiler
# vectorizes. A copy of the source has the search taken out of them: the same values, in a quarter of the time.
#
# As a script: cmake -DSOURCE=perplexity.cpp -DTO=copy.cpp -P fast_logits.cmake

set(GGUFKIT_SEARCH_LOGITS [==[
    float max_logit = logits[0];
    int imax = 0;
    for (int i = 1; i < n_vocab; ++i) {
        if (logits[i] > max_logit) {
            max_logit = logits[i];
            imax = i;
        }
    }
]==])
set(GGUFKIT_FOUND_LOGITS [==[
    const int imax = ggufkit::first_largest(n_vocab, logits);
    float max_logit = logits[imax];
]==])

set(GGUFKIT_SEARCH_BASE [==[
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
set(GGUFKIT_FOUND_BASE [==[
    const int imax_base = ggufkit::first_largest(n_vocab, base_log_prob);
    for (int i = 0; i < n_vocab; ++i) {
        const float p_log_base = scale*base_log_prob[i] + min_log_prob;
        const float p_base = expf(p_log_base);
        const float term = p_base * (p_log_base - logits[i] + max_logit);
        sum += p_log_base > -16.f ? term : 0.f;
    }
]==])

# Write the copy; `done` is false where a loop is not found: then this is another llama.cpp than the one pinned.
function(ggufkit_fast_logits source to done)
    file(READ "${source}" text)
    string(FIND "${text}" "${GGUFKIT_SEARCH_LOGITS}" logits)
    string(FIND "${text}" "${GGUFKIT_SEARCH_BASE}" base)
    if(logits EQUAL -1 OR base EQUAL -1)
        message(STATUS "ggufkit: llama-perplexity's loops are not the known ones; they stay as they are")
        set(${done} FALSE PARENT_SCOPE)
        return()
    endif()
    string(REPLACE "${GGUFKIT_SEARCH_LOGITS}" "${GGUFKIT_FOUND_LOGITS}" text "${text}")
    string(REPLACE "${GGUFKIT_SEARCH_BASE}" "${GGUFKIT_FOUND_BASE}" text "${text}")
    file(WRITE "${to}" "#include \"${CMAKE_CURRENT_FUNCTION_LIST_DIR}/first_largest.h\"\n${text}")
    set(${done} TRUE PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
    ggufkit_fast_logits("${SOURCE}" "${TO}" DONE)
    if(NOT DONE)
        message(FATAL_ERROR "${SOURCE} holds other loops.")
    endif()
endif()
