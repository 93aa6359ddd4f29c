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

struct Field {
    int32_t there;
    float low, high;
};

// The codec and the tensors of a grid; see grid.py.
struct Problem {
    int64_t columns, rows;
    int32_t sub, block, sign, n_levels;
    const float *levels;  // ascending
    Field scale, least;
    int32_t has_dmin, threads;
    float *level, *d, *dmin, *scales, *leasts;
    const float *target;
};

V nearest(const Problem &p, const V &x) {
    const float low = p.levels[0], high = p.levels[p.n_levels - 1];
    if (p.n_levels == int(high - low) + 1) return rounded(clamp(x, low, high));
    V found = all(low);
    for (int i = 1; i < p.n_levels; i++)
        found = where(all((p.levels[i - 1] + p.levels[i]) / 2) < x, all(p.levels[i]), found);
    return found;
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

void gptq_tile(const Tile &t, std::vector<V> &room, const float *packed, const float *factor, const int64_t *order) {
    const Problem &p = t.p;
    const int64_t n = p.columns;
    room.resize(n);
    V *errors = room.data();
    for (int64_t first = 0; first < n; first += G) {
        V rest[G];
        for (int i = 0; i < G; i++) rest[i] = t.load(p.target, order[first + i]) - t.offset(order[first + i] / p.sub);
        gather<-1>(rest, packed + first * n, G, errors, first);
        for (int i = 0; i < G; i++) {
            const int64_t column = order[first + i];
            const float *row = factor + (first + i) * n + first;
            const V step = t.step(column / p.sub), level = nearest(p, rest[i] * inverted(step));
            const V error = (rest[i] - level * step) / row[i];
            for (int j = i + 1; j < G; j++) rest[j] -= error * row[j];
            errors[first + i] = error;
            t.store(p.level, column, where(step != all(0), level, t.load(p.level, column)));
        }
    }
}

struct Fall {
    double gained, left;
};

// One pass; how much the error fell, and what is left of it.
Fall descend_tile(const Tile &t, std::vector<V> &room, const float *packed, const float *hessian, float *differences) {
    const Problem &p = t.p;
    const int64_t n = p.columns;
    room.resize(n);
    V *difference = room.data(), gained = all(0), left = all(0);
    for (int64_t c = 0; c < n; c++) difference[c] = t.load(differences, c);
    for (int64_t first = 0; first < n; first += G) {
        const V step = t.step(first / p.sub);
        const float *panel = packed + first * n;
        V before[G], after[G];
        for (int i = 0; i < G; i++) before[i] = after[i] = all(0);
        gather<1>(before, panel, G, difference, first);
        gather<1>(after, panel + first * G, G, difference + first, n - first);
        for (int i = 0; i < G; i++) {
            const float *row = hessian + (first + i) * n + first;
            const V old = t.load(p.level, first + i), slope = before[i] + after[i];
            const V level = nearest(p, old - slope * inverted(step * row[i]));
            const V change = (level - old) * step;
            for (int j = i + 1; j < G; j++) after[j] += change * row[j];
            gained -= change * (slope * 2 + change * row[i]);
            difference[first + i] += change;
            t.store(p.level, first + i, level);
        }
        for (int i = 0; i < G; i++) {
            const float *row = hessian + (first + i) * n + first;
            V near = before[i] * 2;
            for (int j = 0; j < G; j++) near += difference[first + j] * row[j];
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

V whole(V &value, const V &slope, const V &bend, const Field &field) {
    return move_if_lower(value, clamp(rounded(value - to_minimum(slope, bend)), field.low, field.high), slope, bend);
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
    if (p.scale.there) {
        const V d = t.load(p.d, t.block_of(run));
        for (int i = 0; i < p.sub; i++) unit[i] = d * t.load(p.level, first + i);
        pushed_by(pushed, packed, n, first, p.sub, unit);
        V value = t.load(p.scales, run);
        const V move = whole(value, product(slope, unit, p.sub), product(pushed, unit, p.sub), p.scale);
        t.store(p.scales, run, value);
        for (int i = 0; i < p.sub; i++) {
            difference[first + i] += unit[i] * move;
            slope[i] += pushed[i] * move;
        }
    }
    if (p.least.there) {
        const V worth = t.load(p.dmin, t.block_of(run)) * float(p.sign);
        float near = 0;
        for (int i = 0; i < p.sub; i++)
            for (int j = 0; j < p.sub; j++) near += hessian[(first + i) * n + first + j];
        V sum = all(0), value = t.load(p.leasts, run);
        for (int i = 0; i < p.sub; i++) sum += slope[i];
        const V move = whole(value, sum * worth, worth * worth * near, p.least);
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
    for (int field = 0; field < 1 + p.has_dmin; field++) {
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
    if (p.scale.there || p.least.there)
        for (int64_t run = 0; run * p.sub < p.columns; run++) refit_run(t, packed, hessian, difference, rest, run);
    for (int64_t block = 0; block * p.block < p.columns; block++) refit_block(t, packed, difference, rest, block);
}

struct Setting {
    V d, dmin, scale, least;
};

// Settings to try around the present one; returns how many.
int settings(const Problem &p, const Setting &now, Setting *tried) {
    int count = 0;
    if (!p.scale.there) {
        for (float factor : {0.97f, 1.0f, 1.03f})
            for (float shift : {-0.15f, 0.0f, 0.15f})
                if (p.has_dmin || shift == 0)
                    tried[count++] = {halved(now.d * factor), halved(now.dmin + now.d * shift), now.scale, now.least};
        return count;
    }
    for (float scale : {-1.0f, 0.0f, 1.0f})
        for (float least : {-1.0f, 0.0f, 1.0f})
            if (p.least.there || least == 0) {
                Setting &one = tried[count++] = now;
                one.scale = clamp(now.scale + scale, p.scale.low, p.scale.high);
                if (p.least.there) one.least = clamp(now.least + least, p.least.low, p.least.high);
            }
    return count;
}

// GPTQ within one run; the levels, and tr(D H Dᵀ) for what is left.
V round_run(const Problem &p, const V *ideal, const V &step, const V &offset, const float *factor, V *level) {
    V errors[64], sum = all(0);
    const V inverse = inverted(step);
    for (int first = 0; first < p.sub; first += G) {
        V rest[G];
        for (int i = 0; i < G; i++) rest[i] = ideal[first + i] - offset;
        gather<-1>(rest, factor + first, p.sub, errors, first);
        for (int i = 0; i < G; i++) {
            const float *row = factor + (first + i) * p.sub + first;
            level[first + i] = nearest(p, rest[i] * inverse);
            const V error = (rest[i] - level[first + i] * step) / row[i];
            for (int j = i + 1; j < G; j++) rest[j] -= error * row[j];
            errors[first + i] = error;
            sum += error * error;
        }
    }
    return sum;
}

// inverse: of H within the run; factor: upper triangular, its square root.
void search_run(
    const Tile &t, const float *packed, const float *inverse, const float *factor, V *difference, int64_t run) {
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

void ggufkit_gptq(const Problem *p, const float *factor, const int64_t *order) {
    const auto packed = panels(factor, p->columns);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) { gptq_tile(t, room, packed.data(), factor, order); });
}

void ggufkit_descend(const Problem *p, const float *hessian, int32_t passes, float least_gain) {
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
            falls[t.start / W] = descend_tile(t, room, packed.data(), hessian, differences.data());
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

// inverses, factors: (runs, sub, sub).
void ggufkit_search(const Problem *p, const float *hessian, const float *inverses, const float *factors) {
    const auto packed = panels(hessian, p->columns);
    over_tiles(*p, [&](const Tile &t, std::vector<V> &room) {
        room.resize(p->columns);
        t.difference(room.data());
        const int64_t size = int64_t(p->sub) * p->sub;
        for (int64_t run = 0; run * p->sub < p->columns; run++)
            search_run(t, packed.data(), inverses + run * size, factors + run * size, room.data(), run);
    });
}

}  // extern "C"
