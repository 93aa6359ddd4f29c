// The base's logits, from one llama-perplexity to several: through memory that they share, where a pipe for each would
// have them copied four times over. ggufkit makes the file, and says how many read it: streaming/ring.py.

#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <istream>
#include <ostream>
#include <streambuf>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace ggufkit {

// What the file begins with; the bytes on their way follow after `head_size`, used again and again.
struct RingHead {
    static constexpr char known[16] = "ggufkit ring 1";
    static constexpr uint64_t head_size = 4096;
    static constexpr uint64_t gone = UINT64_MAX;
    static constexpr uint64_t most_readers = 64;

    char magic[16];
    uint64_t size;
    uint64_t n_readers;
    std::atomic<uint64_t> closed;     // nothing more will be written
    std::atomic<uint64_t> n_joined;
    std::atomic<uint64_t> filled;     // bytes written since the beginning
    std::atomic<uint64_t> taken[most_readers];  // bytes that each reader has read, or `gone`
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(RingHead) <= RingHead::head_size, "shared as it is");

// One end of a ring.
class RingBuffer : public std::streambuf {
public:
    // False if the file is no ring, but one like any other. A ring that cannot be used ends the process: whoever is at its
    // other end would wait for ever.
    bool open(const char * path, bool writes) {
        struct stat status;
        if (stat(path, &status) != 0 || !S_ISREG(status.st_mode) || uint64_t(status.st_size) <= RingHead::head_size) {
            return false;
        }
        const int file = ::open(path, O_RDONLY | O_CLOEXEC);
        char magic[sizeof(RingHead::known)];
        const bool known = file >= 0 && pread(file, magic, sizeof(magic), 0) == ssize_t(sizeof(magic))
            && std::memcmp(magic, RingHead::known, sizeof(magic)) == 0;
        ::close(file);
        if (!known) {
            return false;
        }
        n_bytes = size_t(status.st_size);
        const int shared = ::open(path, O_RDWR | O_CLOEXEC);
        void * const memory = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
        if (memory == MAP_FAILED) {
            std::fprintf(stderr, "error: the memory that logits go through cannot be mapped: %s\n", std::strerror(errno));
            std::_Exit(1);
        }
        ::close(shared);
        head = static_cast<RingHead *>(memory);
        bytes = static_cast<char *>(memory) + RingHead::head_size;
        own = writes ? &head->closed : &head->taken[head->n_joined.fetch_add(1) % RingHead::most_readers];
        is_writer = writes;
        return true;
    }

    ~RingBuffer() override {
        if (head != nullptr) {
            own->store(is_writer ? 1 : RingHead::gone);
            munmap(head, n_bytes);
        }
    }

protected:
    std::streamsize xsputn(const char * data, std::streamsize n) override {
        for (std::streamsize done = 0; done < n;) {
            const uint64_t at = head->filled.load();
            const uint64_t some = part(at, head->size - (at - slowest(at)), n - done);
            if (some == 0) {
                pause();
                continue;
            }
            std::memcpy(bytes + at % head->size, data + done, some);
            head->filled.store(at + some);
            done += std::streamsize(some);
        }
        return n;
    }

    std::streamsize xsgetn(char * data, std::streamsize n) override {
        std::streamsize done = 0;
        while (done < n) {
            const bool ended = head->closed.load() != 0;  // before looking: what was written until then counts
            const uint64_t at = own->load();
            const uint64_t some = part(at, head->filled.load() - at, n - done);
            if (some == 0 && ended) {
                break;
            }
            if (some == 0) {
                pause();
                continue;
            }
            std::memcpy(data + done, bytes + at % head->size, some);
            own->store(at + some);
            done += std::streamsize(some);
        }
        return done;
    }

private:
    static constexpr uint64_t most = uint64_t(1) << 20;

    uint64_t part(uint64_t at, uint64_t there, std::streamsize wanted) const {
        return std::min({most, there, uint64_t(wanted), head->size - at % head->size});
    }

    // How far the slowest reader is.
    uint64_t slowest(uint64_t filled) const {
        uint64_t least = filled;
        for (uint64_t i = 0; i < head->n_readers; ++i) {
            least = std::min(least, head->taken[i].load());
        }
        return least;
    }

    static void pause() { std::this_thread::sleep_for(std::chrono::microseconds(200)); }

    RingHead * head = nullptr;
    char * bytes = nullptr;
    std::atomic<uint64_t> * own = nullptr;
    size_t n_bytes = 0;
    bool is_writer = false;
};

// In place of std::ofstream: to a ring, or to any other file.
class LogitsOut : public std::ostream {
public:
    LogitsOut() : std::ostream(nullptr) {}

    void open(const char * path, std::ios::openmode mode) {
        if (ring.open(path, true)) {
            rdbuf(&ring);
        } else if (file.open(path, mode | std::ios::out) != nullptr) {
            rdbuf(&file);
        }
    }

    bool is_open() const { return rdbuf() != nullptr; }

private:
    RingBuffer ring;
    std::filebuf file;
};

// In place of std::ifstream.
class LogitsIn : public std::istream {
public:
    LogitsIn(const char * path, std::ios::openmode mode) : std::istream(nullptr) {
        if (ring.open(path, false)) {
            rdbuf(&ring);
        } else if (file.open(path, mode | std::ios::in) != nullptr) {
            rdbuf(&file);
        }
    }

private:
    RingBuffer ring;
    std::filebuf file;
};

}  // namespace ggufkit
