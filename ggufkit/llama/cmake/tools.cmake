# Included by llama.cpp's top-level project (CMAKE_PROJECT_llama.cpp_INCLUDE); its sources stay as they are.

set(GGUFKIT_LINGER "${CMAKE_CURRENT_LIST_DIR}/linger.cpp")
cmake_language(DEFER CALL target_sources llama-perplexity PRIVATE "${GGUFKIT_LINGER}")
cmake_language(DEFER CALL target_sources llama-imatrix PRIVATE "${GGUFKIT_LINGER}")

# A GPU waits for llama-perplexity to sum and to pass on logits. GCC vectorizes the sums when they are rewritten and it may
# reorder them: the perplexity changes in about its ninth digit.
set(GGUFKIT_FAST_LOGITS OFF CACHE BOOL "let a GPU wait less for llama-perplexity")
if(GGUFKIT_FAST_LOGITS AND CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU"
        AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(GGUFKIT_FAST_FLAGS -fassociative-math -fno-signed-zeros -fno-trapping-math -march=native -mprefer-vector-width=512)
    include("${CMAKE_CURRENT_LIST_DIR}/fast_logits.cmake")
    set(GGUFKIT_FAST_SOURCE "${CMAKE_BINARY_DIR}/ggufkit/perplexity.cpp")
    ggufkit_fast_logits("${CMAKE_SOURCE_DIR}/tools/perplexity/perplexity.cpp" "${GGUFKIT_FAST_SOURCE}" GGUFKIT_REWRITTEN)
    if(GGUFKIT_REWRITTEN)
        cmake_language(DEFER CALL target_compile_options llama-perplexity-impl PRIVATE ${GGUFKIT_FAST_FLAGS})
        cmake_language(DEFER CALL
            set_target_properties llama-perplexity-impl PROPERTIES SOURCES "${GGUFKIT_FAST_SOURCE}")
    endif()
endif()
