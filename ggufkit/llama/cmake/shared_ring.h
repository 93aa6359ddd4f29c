// The base's logits, from one llama-perplexity to several: through memory that they share, where a pipe for each would
// have them copied four times over. A chunk's are written and read where they are, and not copied at all. ggufkit makes
// the file, and says how many read it: streaming/ring.py.

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
#include <vector>

namespace ggufkit {

// What the file begins with; the bytes on their way follow after `head_size`, used again and again: `size` of them, whole
// pages, so that they can be mapped twice in a row and never end in the midst of a chunk.
struct RingHead {
    static constexpr char known[16] = "ggufkit ring 2";
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
        if (!map(path, size_t(status.st_size))) {
            std::fprintf(stderr, "error: the memory that logits go through cannot be mapped: %s\n", std::strerror(errno));
            std::_Exit(1);
        }
        own = writes ? &head->closed : &head->taken[head->n_joined.fetch_add(1) % RingHead::most_readers];
        is_writer = writes;
        return true;
    }

    ~RingBuffer() override {
        if (head != nullptr) {
            own->store(is_writer ? 1 : RingHead::gone);
            munmap(head, n_mapped);
        }
    }

    // Whether `n` bytes may stay where they are: while a reader has them, there must be room for as many.
    bool holds(uint64_t n) const { return 2*n <= head->size; }

    // Where the next `n` bytes are to be written, once there is room.
    char * room(uint64_t n) {
        const uint64_t at = head->filled.load();
        while (head->size - (at - slowest(at)) < n) {
            pause();
        }
        return bytes + at % head->size;
    }

    // Let readers have so many bytes more.
    void wrote(uint64_t n) { head->filled.fetch_add(n); }

    // Where the next `n` bytes are, once they were written; nullptr where they never are.
    const char * next(uint64_t n) {
        const uint64_t at = own->load();
        for (bool ended = false; head->filled.load() - at < n;) {
            if (ended) {
                return nullptr;
            }
            ended = head->closed.load() != 0;  // before looking again: what was written until then counts
            if (!ended) {
                pause();
            }
        }
        return bytes + at % head->size;
    }

    // Be done with so many bytes: they may be written over.
    void took(uint64_t n) { own->fetch_add(n); }

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

    // The head, and twice in a row the bytes that follow it.
    bool map(const char * path, size_t n_bytes) {
        const size_t n_ring = n_bytes - RingHead::head_size;
        const int access = PROT_READ | PROT_WRITE, file = ::open(path, O_RDWR | O_CLOEXEC);
        n_mapped = n_bytes + n_ring;
        void * const memory = mmap(nullptr, n_mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        char * const start = static_cast<char *>(memory);
        const bool mapped = mmap(start, n_bytes, access, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED
            && mmap(start + n_bytes, n_ring, access, MAP_SHARED | MAP_FIXED, file, RingHead::head_size) != MAP_FAILED;
        ::close(file);
        head = reinterpret_cast<RingHead *>(start);
        bytes = start + RingHead::head_size;
        return mapped;
    }

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
    size_t n_mapped = 0;
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

    // Where to put `n` log-probabilities that `send` is to pass on: in the ring, or in `own`.
    uint16_t * rows(std::vector<uint16_t> & own, size_t n) {
        const bool in_ring = rdbuf() == &ring && ring.holds(n*sizeof(uint16_t));
        return in_ring ? reinterpret_cast<uint16_t *>(ring.room(n*sizeof(uint16_t))) : own.data();
    }

    void send(const std::vector<uint16_t> & own, const uint16_t * values, size_t n) {
        if (values == own.data()) {
            write(reinterpret_cast<const char *>(values), std::streamsize(n*sizeof(uint16_t)));
        } else {
            ring.wrote(n*sizeof(uint16_t));
        }
    }

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

    // The next log-probabilities, as many as `own` holds: in the ring until the next call, or read into `own`; nullptr
    // where there are not so many.
    const uint16_t * rows(std::vector<uint16_t> & own) {
        const size_t n_bytes = own.size()*sizeof(uint16_t);
        if (rdbuf() != &ring || !ring.holds(n_bytes)) {
            return read(reinterpret_cast<char *>(own.data()), std::streamsize(n_bytes)).fail() ? nullptr : own.data();
        }
        ring.took(n_borrowed);
        n_borrowed = n_bytes;
        return reinterpret_cast<const uint16_t *>(ring.next(n_bytes));
    }

private:
    RingBuffer ring;
    std::filebuf file;
    uint64_t n_borrowed = 0;
};

}  // namespace ggufkit
