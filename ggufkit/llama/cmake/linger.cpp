// llama.cpp's log is printed by a thread that the end of main does not wait for: under load the last lines, which are
// the results, get lost. Static objects are destroyed before the process ends: waiting there lets the thread finish.

#include <chrono>
#include <thread>

namespace {

struct Linger {
    ~Linger() { std::this_thread::sleep_for(std::chrono::milliseconds(100)); }
};

const Linger linger;

}  // namespace
