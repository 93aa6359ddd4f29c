// The search for one matrix over tiles of rows: what rounding.py and scales.py do, which say why.
//
// Matrices are float32, (columns, rows) with consecutive rows beside each other. A tile is `W` rows of all columns; what it
// needs stays in the core's own cache. Sums over columns are left-looking: a group of `G` columns at a time gathers what
// all others make of it.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>


namespace {

#if defined(__AVX512F__)
constexpr int L = 16, U = 2;
#elif defined(__AVX__)
constexpr int L = 8, U = 2;
#else
constexpr int L = 4, U = 4;
#endif
constexpr int W = L * U;
#if defined(__AVX512F__)
constexpr int G = 8;
#else
constexpr int G = 4;
#endif

typedef float F __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));

// W numbers, one for each row of a tile.
struct V {
    F part[U];
};

#define EACH for (int u = 0; u < U; u++)

inline F splat(float x) { return x - F{}; }
inline V all(float x) {
    V r;
    EACH r.part[u] = splat(x);
    return r;
}
#define OPERATOR(op)                                   \
    inline V operator op(const V &a, const V &b) {     \
        V r;                                           \
        EACH r.part[u] = a.part[u] op b.part[u];       \
        return r;                                      \
    }                                                  \
    inline V operator op(const V &a, float b) {        \
        V r;                                           \
        EACH r.part[u] = a.part[u] op b;               \
        return r;                                      \
    }
OPERATOR(+)
OPERATOR(-)
OPERATOR(*)
OPERATOR(/)
inline V &operator+=(V &a, const V &b) { return a = a + b; }
inline V &operator-=(V &a, const V &b) { return a = a - b; }

struct Mask {
    I part[U];
};
inline Mask operator<(const V &a, const V &b) {
    Mask r;
    EACH r.part[u] = a.part[u] < b.part[u];
    return r;
}
inline Mask operator!=(const V &a, const V &b) {
    Mask r;
    EACH r.part[u] = a.part[u] != b.part[u];
    return r;
}
inline Mask operator&(const Mask &a, const Mask &b) {
    Mask r;
    EACH r.part[u] = a.part[u] & b.part[u];
    return r;
}
inline Mask operator|(const Mask &a, const Mask &b) {
    Mask r;
    EACH r.part[u] = a.part[u] | b.part[u];
    return r;
}
inline Mask same(const V &a, float b) {
    Mask r;
    EACH r.part[u] = a.part[u] == b;
    return r;
}
inline bool any(const Mask &a) {
    int32_t found = 0;
    EACH for (int l = 0; l < L; l++) found |= a.part[u][l];
    return found;
}
inline V where(const Mask &m, const V &a, const V &b) {
    V r;
    EACH r.part[u] = m.part[u] ? a.part[u] : b.part[u];
    return r;
}
inline V clamp(V x, float low, float high) {
    const V a = all(low), b = all(high);
    x = where(x < a, a, x);
    return where(b < x, b, x);
}
// To the nearest integer, ties to even, for |x| below 2^22.
inline V rounded(const V &x) {
    constexpr float big = 12582912.0f;
    V r;
    EACH {
        F sum = x.part[u] + big;
        r.part[u] = sum - big;
    }
    return r;
}
inline V inverted(const V &x) { return where(x != all(0), all(1) / x, all(0)); }

// To float16 and back, ties to even; what is too large becomes infinite.
inline V halved(const V &x) {
    V r;
    EACH {
        I bits;
        std::memcpy(&bits, &x.part[u], sizeof bits);
        const I least = I{} + ((127 - 14) << 23);
        I exponent = bits & 0x7f800000;
        exponent = exponent < least ? least : exponent;
        I big = exponent + (13 << 23) + 0x400000;
        F shift;
        std::memcpy(&shift, &big, sizeof shift);
        F sum = x.part[u] + shift;
        F near = sum - shift;
        const F infinite = splat(__builtin_inff());
        near = near > 65504.0f ? infinite : near;
        r.part[u] = near < -65504.0f ? -infinite : near;
    }
    return r;
}

// Values that something may have, ascending; none where there is no such thing.
struct Values {
    const float *of;
    int64_t count;

    bool dense() const { return of[count - 1] - of[0] + 1 == float(count); }
    V nearest(const V &x) const {
        if (dense()) return rounded(clamp(x, of[0], of[count - 1]));
        V found = all(of[0]);
        for (int64_t i = 1; i < count; i++) found = where(all((of[i - 1] + of[i]) / 2) < x, all(of[i]), found);
        return found;
    }
    // The value before, itself or the value after.
    V beside(const V &x, int by) const {
        if (dense()) return clamp(x + all(float(by)), of[0], of[count - 1]);
        V found = x;
        if (by < 0)
            for (int64_t i = 0; i < count; i++) found = where(all(of[i]) < x, all(of[i]), found);
        if (by > 0)
            for (int64_t i = count; i--;) found = where(x < all(of[i]), all(of[i]), found);
        return found;
    }
};

// Words of magnitudes (count, length), and how many levels are chosen together; see codewords.py.
struct Words {
    const float *of;
    int32_t count, length, unit, even;
};

// The codec and the tensors of a grid; see grid.py.
struct Problem {
    int64_t columns, rows;
    int32_t sub, block, sign, has_d, has_dmin, threads;
    Values levels, scale, least;
    Words words;
    float *level, *d, *dmin, *scales, *leasts;
    const float *target;

    // Columns that are done together: whole units.
    int span() const { return std::max<int>(G, words.unit); }
};

// Columns of a unit, at most.
constexpr int K = 8;

// The word of N levels that makes Σ level (pull + Σ metric level) least for levels of these signs, for L rows.
template <int N>
void best_word(const Words &words, const float *metric, int64_t stride, const F *pull, const F *sign, F *level) {
    F bent[N * (N - 1) / 2], turned[N], least = splat(__builtin_inff());
    I best{};
    for (int i = 0, k = 0; i < N; i++) {
        turned[i] = sign[i] * pull[i];
        for (int j = i + 1; j < N; j++) bent[k++] = sign[i] * sign[j] * (2 * metric[i * stride + j]);
    }
    for (int32_t w = 0; w < words.count; w++) {
        const float *word = words.of + w * N;
        float own = 0;
        for (int i = 0; i < N; i++) own += word[i] * word[i] * metric[i * stride + i];
        F sum = splat(own);
        for (int i = 0, k = 0; i < N; i++) {
            F inner = turned[i];
            for (int j = i + 1; j < N; j++) inner += bent[k++] * word[j];
            sum += inner * word[i];
        }
        const I better = sum < least;
        least = better ? sum : least;
        best = better ? I{} + w : best;
    }
    for (int i = 0; i < N; i++)
        for (int l = 0; l < L; l++) level[i][l] = words.of[best[l] * N + i] * sign[i][l];
}

// The best word for each part of a unit in turn, as _words of codewords.py.
void best_words(const Words &words, const float *metric, int64_t stride, const V *wanted, const V *sign, V *level) {
    const int parts = words.unit / words.length, length = words.length;
    for (int step = 0; step < 2 * parts - 1; step++) {
        const int from = step % parts * length;
        for (int u = 0; u < U; u++) {
            F pull[K], signs[K], found[K];
            for (int i = 0; i < length; i++) {
                const float *row = metric + (from + i) * stride;
                F rest = wanted[from + i].part[u];
                for (int j = 0; j < words.unit; j++)
                    if (j < from || j >= from + length) rest -= row[j] * level[j].part[u];
                pull[i] = -2 * rest;
                signs[i] = sign[from + i].part[u];
            }
            const float *near = metric + from * stride + from;
            if (length == 8) best_word<8>(words, near, stride, pull, signs, found);
            else best_word<4>(words, near, stride, pull, signs, found);
            for (int i = 0; i < length; i++) level[from + i].part[u] = found[i];
        }
    }
}

V turned(const V &level, const V &slope, float bend) { return level * (level * bend - slope); }

void turn_each(int unit, const float *metric, int64_t stride, V *slope, V *level) {
    for (int i = 0; i < unit; i++) {
        const V gain = turned(level[i], slope[i], metric[i * stride + i]);
        const V change = where(gain < all(0), level[i] * -2.0f, all(0));
        level[i] += change;
        for (int j = 0; j < unit; j++) slope[j] += change * metric[i * stride + j];
    }
}

void turn_a_pair(int unit, const float *metric, int64_t stride, const V *slope, V *level) {
    V each[K], least = all(0), first = all(-1), second = all(-1);
    for (int i = 0; i < unit; i++) each[i] = turned(level[i], slope[i], metric[i * stride + i]);
    for (int i = 0; i < unit; i++)
        for (int j = i + 1; j < unit; j++) {
            const V both = each[i] + each[j] + level[i] * level[j] * (2 * metric[i * stride + j]);
            const Mask better = both < least;
            least = where(better, both, least);
            first = where(better, all(float(i)), first);
            second = where(better, all(float(j)), second);
        }
    for (int i = 0; i < unit; i++)
        level[i] = where(same(first, float(i)) | same(second, float(i)), level[i] * -1.0f, level[i]);
}

void make_even(int unit, const float *metric, int64_t stride, const V *y, V *sign) {
    V least = all(__builtin_inff()), cheapest = all(0), product = all(1);
    for (int i = 0; i < unit; i++) {
        const V cost = y[i] * sign[i] * metric[i * stride + i];
        const Mask cheaper = cost < least;
        least = where(cheaper, cost, least);
        cheapest = where(cheaper, all(float(i)), cheapest);
        product = product * sign[i];
    }
    for (int i = 0; i < unit; i++) sign[i] = where(same(cheapest, float(i)), sign[i] * product, sign[i]);
}

// Levels near y under a metric, as `nearest` of codewords.py.
void nearest_words(const Words &words, const V *y, const float *metric, int64_t stride, V *level) {
    const int unit = words.unit;
    V wanted[K], sign[K], slope[K];
    for (int i = 0; i < unit; i++) {
        wanted[i] = all(0);
        for (int j = 0; j < unit; j++) wanted[i] += y[j] * metric[i * stride + j];
        sign[i] = where(y[i] < all(0), all(-1), all(1));
        level[i] = y[i];
    }
    if (words.even) make_even(unit, metric, stride, y, sign);
    best_words(words, metric, stride, wanted, sign, level);
    for (int i = 0; i < unit; i++) {
        slope[i] = all(0) - wanted[i];
        for (int j = 0; j < unit; j++) slope[i] += level[j] * metric[i * stride + j];
    }
    if (words.even) turn_a_pair(unit, metric, stride, slope, level);
    else turn_each(unit, metric, stride, slope, level);
    V product = all(1);
    for (int i = 0; i < unit; i++) {
        const V now = where(level[i] < all(0), all(-1), all(1));
        product = where(now != sign[i], all(0), product);
        sign[i] = now;
    }
    // A single word for the same signs is the same.
    if (unit != words.length || any(same(product, 0))) best_words(words, metric, stride, wanted, sign, level);
}

// Levels of a unit for y, in units of levels.
void choose(const Problem &p, const V *y, const float *metric, int64_t stride, V *level) {
    if (p.words.count) nearest_words(p.words, y, metric, stride, level);
    else level[0] = p.levels.nearest(y[0]);
}

// Row by row what `G` columns of a symmetric or upper triangular matrix hold: (columns / G, columns, G).
std::vector<float> panels(const float *matrix, int64_t n) {
    std::vector<float> packed(n * n);
    for (int64_t k = 0; k < n; k++)
        for (int64_t c = 0; c < n; c += G) std::memcpy(&packed[(c * n) + k * G], matrix + k * n + c, G * sizeof(float));
    return packed;
}

// sum[c] += or -= Σ matrix[k][c] * x[k] for G columns c and `count` k; rows of the matrix are `stride` apart.
template <int sign>
inline void gather(V *sum, const float *matrix, int64_t stride, const V *x, int64_t count) {
    V held[G];
    for (int c = 0; c < G; c++) held[c] = sum[c];
    for (int64_t k = 0; k < count; k++, matrix += stride) {
        const V here = x[k];
        for (int c = 0; c < G; c++) {
            const float factor = sign * matrix[c];
            EACH held[c].part[u] += factor * here.part[u];
        }
    }
    for (int c = 0; c < G; c++) sum[c] = held[c];
}

// One tile, and room for what is computed for it.
struct Tile {
    const Problem &p;
    int64_t start, count;

    V load(const float *tensor, int64_t row) const {
        V x;
        if (count == W) {
            std::memcpy(&x, tensor + row * p.rows + start, sizeof x);
        } else {
            x = all(0);
            std::memcpy(&x, tensor + row * p.rows + start, count * sizeof(float));
        }
        return x;
    }
    void store(float *tensor, int64_t row, const V &x) const {
        std::memcpy(tensor + row * p.rows + start, &x, count * sizeof(float));
    }
    int64_t block_of(int64_t run) const { return run * p.sub / p.block; }
    V step(int64_t run) const { return load(p.d, block_of(run)) * load(p.scales, run); }
    V offset(int64_t run) const { return load(p.dmin, block_of(run)) * load(p.leasts, run) * float(p.sign); }

    // weights - target
    void difference(V *into) const {
        for (int64_t run = 0; run * p.sub < p.columns; run++) {
            const V s = step(run), o = offset(run);
            for (int64_t c = run * p.sub; c < (run + 1) * p.sub; c++)
                into[c] = s * load(p.level, c) + o - load(p.target, c);
        }
    }
    double total(const V &x) const {
        float each[W];
        std::memcpy(each, &x, sizeof each);
        double sum = 0;
        for (int64_t i = 0; i < count; i++) sum += each[i];
        return sum;
    }
};

// Let threads take what `count` numbers stand for, until all is done.
template <class Work>
void share(int64_t count, int64_t threads, Work work) {
    std::atomic<int64_t> next{0};
    auto run = [&] {
        std::vector<V> room;
        for (int64_t i; (i = next++) < count;) work(i, room);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(threads, count); i++) others.emplace_back(run);
    run();
    for (auto &thread : others) thread.join();
}

template <class Work>
void over_tiles(const Problem &p, Work work) {
    share((p.rows + W - 1) / W, p.threads, [&](int64_t i, std::vector<V> &room) {
        work(Tile{p, i * W, std::min<int64_t>(W, p.rows - i * W)}, room);
    });
}

void gptq_tile(const Tile &t, std::vector<V> &room, const float *packed, const float *factor, const float *metrics,
               const int64_t *order) {
    const Problem &p = t.p;
    const int64_t n = p.columns;
    const int span = p.span(), unit = p.words.unit;
    room.resize(n);
    V *errors = room.data();
    for (int64_t first = 0; first < n; first += span) {
        V rest[K], ideal[K], level[K];
        for (int i = 0; i < span; i++)
            rest[i] = t.load(p.target, order[first + i]) - t.offset(order[first + i] / p.sub);
        for (int i = 0; i < span; i += G) gather<-1>(rest + i, packed + (first + i) * n, G, errors, first);
        for (int at = 0; at < span; at += unit) {
            const V step = t.step(order[first + at] / p.sub), inverse = inverted(step);
            for (int i = 0; i < unit; i++) ideal[i] = rest[at + i] * inverse;
            choose(p, ideal, metrics + (first + at) * unit, unit, level);
            for (int i = at; i < at + unit; i++) {
                const float *row = factor + (first + i) * n + first;
                const int64_t column = order[first + i];
                const V error = (rest[i] - level[i - at] * step) / row[i];
                for (int j = i + 1; j < span; j++) rest[j] -= error * row[j];
                errors[first + i] = error;
                t.store(p.level, column, where(step != all(0), level[i - at], t.load(p.level, column)));
            }
        }
    }
}

struct Fall {
    double gained, left;
};

// The changes of a unit's weights and its new levels, which are the old ones where none are found that are nearer.
void move_unit(const Problem &p, const float *metric, const float *inverse, const V &step, const V *slope, V *level,
               V *change) {
    const int unit = p.words.unit;
    V ideal[K], moved[K], added = all(0);
    if (unit == 1) ideal[0] = level[0] - slope[0] * inverted(step * metric[0]);
    for (int i = 0; unit > 1 && i < unit; i++) {
        V off = all(0);
        for (int j = 0; j < unit; j++) off += slope[j] * inverse[i * unit + j];
        ideal[i] = level[i] - off * inverted(step);
    }
    choose(p, ideal, metric, p.columns, moved);
    for (int i = 0; i < unit; i++) change[i] = (moved[i] - level[i]) * step;
    for (int i = 0; i < unit; i++) {
        V pushed = slope[i] * 2;
        for (int j = 0; j < unit; j++) pushed += change[j] * metric[i * p.columns + j];
        added += change[i] * pushed;
    }
    const Mask nearer = added < all(0);
    for (int i = 0; i < unit; i++) {
        change[i] = where(nearer, change[i], all(0));
        level[i] = where(nearer, moved[i], level[i]);
    }
}

// One pass; how much the error fell, and what is left of it.
Fall descend_tile(const Tile &t, std::vector<V> &room, const float *packed, const float *hessian,
                  const float *inverses, float *differences) {
    const Problem &p = t.p;
    const int64_t n = p.columns;
    const int span = p.span(), unit = p.words.unit;
    room.resize(n);
    V *difference = room.data(), gained = all(0), left = all(0);
    for (int64_t c = 0; c < n; c++) difference[c] = t.load(differences, c);
    for (int64_t first = 0; first < n; first += span) {
        const V step = t.step(first / p.sub);
        V before[K], slope[K], level[K], change[K];
        for (int i = 0; i < span; i++) before[i] = slope[i] = all(0);
        for (int i = 0; i < span; i += G) {
            const float *panel = packed + (first + i) * n;
            gather<1>(before + i, panel, G, difference, first);
            gather<1>(slope + i, panel + first * G, G, difference + first, n - first);
        }
        for (int i = 0; i < span; i++) {
            slope[i] += before[i];
            level[i] = t.load(p.level, first + i);
        }
        for (int at = 0; at < span; at += unit) {
            const float *metric = hessian + (first + at) * n + first + at;
            move_unit(p, metric, inverses + (first + at) * unit, step, slope + at, level + at, change + at);
            for (int i = at; i < at + unit; i++) {
                const float *row = hessian + (first + i) * n + first;
                V pushed = slope[i] * 2;
                for (int j = at; j < at + unit; j++) pushed += change[j] * row[j];
                gained -= change[i] * pushed;
                for (int j = at + unit; j < span; j++) slope[j] += change[i] * row[j];
                difference[first + i] += change[i];
                t.store(p.level, first + i, level[i]);
            }
        }
        for (int i = 0; i < span; i++) {
            const float *row = hessian + (first + i) * n + first;
            V near = before[i] * 2;
            for (int j = 0; j < span; j++) near += difference[first + j] * row[j];
            left += difference[first + i] * near;
        }
    }
    for (int64_t c = 0; c < n; c++) t.store(differences, c, difference[c]);
    return {t.total(gained), t.total(left)};
}

// What all columns make of `count` columns from `first`.
void slopes(V *into, const float *packed, int64_t n, int64_t first, int64_t count, const V *difference) {
    for (int64_t c = 0; c < count; c += G) {
        for (int i = 0; i < G; i++) into[c + i] = all(0);
        gather<1>(into + c, packed + (first + c) * n, G, difference, n);
    }
}

// H x within `count` columns from `first`.
void pushed_by(V *into, const float *packed, int64_t n, int64_t first, int64_t count, const V *x) {
    for (int64_t c = 0; c < count; c += G) {
        for (int i = 0; i < G; i++) into[c + i] = all(0);
        gather<1>(into + c, packed + (first + c) * n + first * G, G, x, count);
    }
}

V product(const V *a, const V *b, int64_t count) {
    V sum = all(0);
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

V to_minimum(const V &slope, const V &bend) { return where(all(0) < bend, slope / bend, all(0)); }

// Move `value` to `best` where that lowers slope * move + bend * move² / 2; returns by how much.
V move_if_lower(V &value, const V &best, const V &slope, const V &bend) {
    V move = best - value;
    move = where(slope * move + bend * move * move / 2 < all(0), move, all(0));
    value += move;
    return move;
}

V move_within(V &value, const V &slope, const V &bend, const Values &values) {
    return move_if_lower(value, values.nearest(value - to_minimum(slope, bend)), slope, bend);
}

V half(V &value, const V &slope, const V &bend) {
    V best = halved(value - to_minimum(slope, bend));
    const V most = all(65504);
    best = where(best < most + all(1), best, value);
    best = where(all(-65505) < best, best, value);
    return move_if_lower(value, best, slope, bend);
}

void refit_run(const Tile &t, const float *packed, const float *hessian, V *difference, V *slope, int64_t run) {
    const Problem &p = t.p;
    const int64_t n = p.columns, first = run * p.sub;
    V unit[64], pushed[64];
    slopes(slope, packed, n, first, p.sub, difference + 0);
    if (p.scale.count) {
        const V d = t.load(p.d, t.block_of(run));
        for (int i = 0; i < p.sub; i++) unit[i] = d * t.load(p.level, first + i);
        pushed_by(pushed, packed, n, first, p.sub, unit);
        V value = t.load(p.scales, run);
        const V move = move_within(value, product(slope, unit, p.sub), product(pushed, unit, p.sub), p.scale);
        t.store(p.scales, run, value);
        for (int i = 0; i < p.sub; i++) {
            difference[first + i] += unit[i] * move;
            slope[i] += pushed[i] * move;
        }
    }
    if (p.least.count) {
        const V worth = t.load(p.dmin, t.block_of(run)) * float(p.sign);
        float near = 0;
        for (int i = 0; i < p.sub; i++)
            for (int j = 0; j < p.sub; j++) near += hessian[(first + i) * n + first + j];
        V sum = all(0), value = t.load(p.leasts, run);
        for (int i = 0; i < p.sub; i++) sum += slope[i];
        const V move = move_within(value, sum * worth, worth * worth * near, p.least);
        t.store(p.leasts, run, value);
        for (int i = 0; i < p.sub; i++) difference[first + i] += move * worth;
    }
}

void refit_block(const Tile &t, const float *packed, V *difference, V *room, int64_t block) {
    const Problem &p = t.p;
    const int64_t n = p.columns, first = block * p.block;
    V *slope = room, *unit = slope + p.block, *pushed = unit + p.block;
    slopes(slope, packed, n, first, p.block, difference);
    for (int i = 0; i < p.block; i++) unit[i] = t.load(p.scales, (first + i) / p.sub) * t.load(p.level, first + i);
    for (int field = !p.has_d; field < 1 + p.has_dmin; field++) {
        float *tensor = field ? p.dmin : p.d;
        if (field)
            for (int i = 0; i < p.block; i++) unit[i] = t.load(p.leasts, (first + i) / p.sub) * float(p.sign);
        pushed_by(pushed, packed, n, first, p.block, unit);
        V value = t.load(tensor, block);
        const V move = half(value, product(slope, unit, p.block), product(pushed, unit, p.block));
        t.store(tensor, block, value);
        for (int i = 0; i < p.block; i++) {
            difference[first + i] += unit[i] * move;
            slope[i] += pushed[i] * move;
        }
    }
}

void refit_tile(const Tile &t, std::vector<V> &room, const float *packed, const float *hessian) {
    const Problem &p = t.p;
    room.resize(p.columns + 3 * p.block);
    V *difference = room.data(), *rest = difference + p.columns;
    t.difference(difference);
    if (p.scale.count || p.least.count)
        for (int64_t run = 0; run * p.sub < p.columns; run++) refit_run(t, packed, hessian, difference, rest, run);
    for (int64_t block = 0; block * p.block < p.columns; block++) refit_block(t, packed, difference, rest, block);
}

struct Setting {
    V d, dmin, scale, least;
};

// Settings to try around the present one; returns how many.
int settings(const Problem &p, const Setting &now, Setting *tried) {
    int count = 0;
    if (!p.scale.count) {
        for (float factor : {0.97f, 1.0f, 1.03f})
            for (float shift : {-0.15f, 0.0f, 0.15f})
                if (p.has_dmin || shift == 0)
                    tried[count++] = {halved(now.d * factor), halved(now.dmin + now.d * shift), now.scale, now.least};
        return count;
    }
    for (int scale : {-1, 0, 1})
        for (int least : {-1, 0, 1})
            if (p.least.count || least == 0) {
                Setting &one = tried[count++] = now;
                one.scale = p.scale.beside(now.scale, scale);
                if (p.least.count) one.least = p.least.beside(now.least, least);
            }
    return count;
}

// What GPTQ within one run has: the factor of its inverse, upper triangular (sub, sub), and what its units' errors count.
struct Factor {
    const float *of, *metrics;
};

// GPTQ within one run; the levels, and tr(D H Dᵀ) for what is left.
V round_run(const Problem &p, const V *ideal, const V &step, const V &offset, const Factor &factor, V *level) {
    const int span = p.span(), unit = p.words.unit;
    V errors[64], sum = all(0);
    const V inverse = inverted(step);
    for (int first = 0; first < p.sub; first += span) {
        V rest[K], scaled[K];
        for (int i = 0; i < span; i++) rest[i] = ideal[first + i] - offset;
        for (int i = 0; i < span; i += G) gather<-1>(rest + i, factor.of + first + i, p.sub, errors, first);
        for (int at = 0; at < span; at += unit) {
            for (int i = 0; i < unit; i++) scaled[i] = rest[at + i] * inverse;
            choose(p, scaled, factor.metrics + (first + at) * unit, unit, level + first + at);
            for (int i = at; i < at + unit; i++) {
                const float *row = factor.of + (first + i) * p.sub + first;
                const V error = (rest[i] - level[first + i] * step) / row[i];
                for (int j = i + 1; j < span; j++) rest[j] -= error * row[j];
                errors[first + i] = error;
                sum += error * error;
            }
        }
    }
    return sum;
}

// inverse: of H within the run.
void search_run(
    const Tile &t, const float *packed, const float *inverse, const Factor &factor, V *difference, int64_t run) {
    const Problem &p = t.p;
    const int64_t first = run * p.sub, block = t.block_of(run);
    V slope[64], off[64], here[64], ideal[64], best[64], level[64];
    const Setting now{t.load(p.d, block), t.load(p.dmin, block), t.load(p.scales, run), t.load(p.leasts, run)};
    slopes(slope, packed, p.columns, first, p.sub, difference);
    for (int c = 0; c < p.sub; c += G) {
        for (int i = 0; i < G; i++) off[c + i] = all(0);
        gather<1>(off + c, inverse + c, p.sub, slope, p.sub);
    }
    const V step = now.d * now.scale, offset = now.dmin * now.least * float(p.sign);
    for (int i = 0; i < p.sub; i++) {
        best[i] = t.load(p.level, first + i);
        here[i] = step * best[i] + offset;
        ideal[i] = here[i] - off[i];
    }
    V least = product(slope, off, p.sub);
    Setting kept = now, tried[9];
    const int count = settings(p, now, tried);
    for (int n = 0; n < count; n++) {
        const Setting &one = tried[n];
        const V error =
            round_run(p, ideal, one.d * one.scale, one.dmin * one.least * float(p.sign), factor, level);
        const Mask better = error < least;
        least = where(better, error, least);
        kept = {where(better, one.d, kept.d), where(better, one.dmin, kept.dmin),
                where(better, one.scale, kept.scale), where(better, one.least, kept.least)};
        for (int i = 0; i < p.sub; i++) best[i] = where(better, level[i], best[i]);
    }
    t.store(p.d, block, kept.d);
    t.store(p.dmin, block, kept.dmin);
    t.store(p.scales, run, kept.scale);
    t.store(p.leasts, run, kept.least);
    const V new_step = kept.d * kept.scale, new_offset = kept.dmin * kept.least * float(p.sign);
    for (int i = 0; i < p.sub; i++) {
        t.store(p.level, first + i, best[i]);
        difference[first + i] += new_step * best[i] + new_offset - here[i];
    }
}

}  // namespace

extern "C" {

// metrics: (units, unit, unit), in the order of the factor.
void ggufkit_gptq(const Problem *p, const float *factor, const float *metrics, const int64_t *order) {
    const auto packed = panels(factor, p->columns);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) {
        gptq_tile(t, room, packed.data(), factor, metrics, order);
    });
}

// inverses: of H within units.
void ggufkit_descend(
    const Problem *p, const float *hessian, const float *inverses, int32_t passes, float least_gain) {
    const auto packed = panels(hessian, p->columns);
    std::vector<float> differences(p->columns * p->rows);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) {
        room.resize(p->columns);
        t.difference(room.data());
        for (int64_t c = 0; c < p->columns; c++) t.store(differences.data(), c, room[c]);
    });
    for (int i = 0; i < passes; i++) {
        std::vector<Fall> falls((p->rows + W - 1) / W);
        over_tiles(*p, [&](const Tile &t, std::vector<V> &room) {
            falls[t.start / W] = descend_tile(t, room, packed.data(), hessian, inverses, differences.data());
        });
        Fall sum{0, 0};
        for (const Fall &fall : falls) sum = {sum.gained + fall.gained, sum.left + fall.left};
        if (sum.gained <= least_gain * sum.left) return;
    }
}

void ggufkit_refit(const Problem *p, const float *hessian) {
    const auto packed = panels(hessian, p->columns);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) { refit_tile(t, room, packed.data(), hessian); });
}

// inverses, factors: (runs, sub, sub); metrics: (runs, sub / unit, unit, unit).
void ggufkit_search(
    const Problem *p, const float *hessian, const float *inverses, const float *factors, const float *metrics) {
    const auto packed = panels(hessian, p->columns);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) {
        room.resize(p->columns);
        t.difference(room.data());
        const int64_t size = int64_t(p->sub) * p->sub;
        for (int64_t run = 0; run * p->sub < p->columns; run++)
            search_run(t, packed.data(), inverses + run * size,
                       {factors + run * size, metrics + run * p->sub * p->words.unit}, room.data(), run);
    });
}

}  // extern "C"
