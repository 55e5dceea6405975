// Deformable sampling on CPU, float32, channels last: see deform_native.py for what calls it.
//
// Both functions read the points again rather than keep anything; every sum is made by one thread in a fixed
// order, so that results do not depend on how many threads there are.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

struct Shape { int64_t batch, groups, depth, height, width, points; };

// Strides, in numbers: of offsets over (batch, group, point, axis, row, column), of masks without axis.
struct Strides { int64_t offset[6], mask[5]; };

struct Kernel {
  const float* at;  // (x, y) of each point
  float scale;
  int64_t x_first;
};

namespace {

const float kNothing = std::numeric_limits<float>::quiet_NaN();

// The four pixels around a point, clockwise from the upper left: where they start, or -1 outside the image.
struct Corners {
  int64_t start[4];
  float right, down;  // how far the point lies past the upper left one
};

enum Where { kInside, kOutside, kUnknown };

inline Where corners_at(float x, float y, const Shape& s, int64_t step, Corners& c) {
  if (!(x >= -1 && x < s.width && y >= -1 && y < s.height)) return x != x || y != y ? kUnknown : kOutside;
  const float left = std::floor(x), top = std::floor(y);
  c.right = x - left;
  c.down = y - top;
  const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
  const bool west = column >= 0, east = column + 1 < s.width, north = row >= 0, south = row + 1 < s.height;
  const int64_t start = (row * s.width + column) * step, below = start + s.width * step;
  c.start[0] = west && north ? start : -1;
  c.start[1] = east && north ? start + step : -1;
  c.start[2] = west && south ? below : -1;
  c.start[3] = east && south ? below + step : -1;
  return kInside;
}

// Where the offsets (or masks) of one pixel's one group start.
inline int64_t offsets_of(const Strides& t, int64_t b, int64_t g, int64_t row, int64_t column) {
  return b * t.offset[0] + g * t.offset[1] + row * t.offset[4] + column * t.offset[5];
}
inline int64_t masks_of(const Strides& t, int64_t b, int64_t g, int64_t row, int64_t column) {
  return b * t.mask[0] + g * t.mask[1] + row * t.mask[3] + column * t.mask[4];
}

struct Reader {
  const Shape& shape;
  const Strides& strides;
  const Kernel& kernel;
  const float* offset;
  const float* mask;

  // The corners of point k of a pixel whose offsets start at `from`.
  Where corners(int64_t from, int64_t k, int64_t row, int64_t column, int64_t step, Corners& c) const {
    const float* at = offset + from + k * strides.offset[2];
    const float first = at[0], second = at[strides.offset[3]];
    const float x = column + kernel.scale * (kernel.at[2 * k] + (kernel.x_first ? first : second));
    const float y = row + kernel.scale * (kernel.at[2 * k + 1] + (kernel.x_first ? second : first));
    return corners_at(x, y, shape, step, c);
  }
  float weight(int64_t from, int64_t k) const { return mask ? mask[from + k * strides.mask[2]] : 1.0f; }
};

template <int kDepth>
void gather_rows(const float* value, const Reader& r, float* out, int64_t b, int64_t row) {
  const Shape& s = r.shape;
  const int64_t depth = kDepth ? kDepth : s.depth, step = s.groups * depth;
  const std::vector<float> zeros(depth, 0.0f);
  Corners c;
  for (int64_t column = 0; column < s.width; ++column) {
    for (int64_t g = 0; g < s.groups; ++g) {
      const float* plane = value + b * s.height * s.width * step + g * depth;
      float* sum = out + ((b * s.height + row) * s.width + column) * step + g * depth;
      const int64_t offsets = offsets_of(r.strides, b, g, row, column), masks = masks_of(r.strides, b, g, row, column);
      for (int64_t d = 0; d < depth; ++d) sum[d] = 0;
      for (int64_t k = 0; k < s.points; ++k) {
        const Where where = r.corners(offsets, k, row, column, step, c);
        if (where == kOutside) continue;
        if (where == kUnknown) {
          for (int64_t d = 0; d < depth; ++d) sum[d] = kNothing;
          continue;
        }
        const float m = r.weight(masks, k);
        const float w0 = m * (1 - c.right) * (1 - c.down), w1 = m * c.right * (1 - c.down);
        const float w2 = m * (1 - c.right) * c.down, w3 = m * c.right * c.down;
        const float* p[4];
        for (int i = 0; i < 4; ++i) p[i] = c.start[i] < 0 ? zeros.data() : plane + c.start[i];
#pragma omp simd
        for (int64_t d = 0; d < depth; ++d) sum[d] += w0 * p[0][d] + w1 * p[1][d] + w2 * p[2][d] + w3 * p[3][d];
      }
    }
  }
}

// One image's one group: no other thread writes where this one does.
template <int kDepth>
void scatter_group(const float* grad, const float* value, const Reader& r, float* to_value, float* to_offset,
                   float* to_mask, const Strides& to, int64_t b, int64_t g) {
  const Shape& s = r.shape;
  const int64_t depth = kDepth ? kDepth : s.depth, step = s.groups * depth;
  const std::vector<float> zeros(depth, 0.0f);
  std::vector<float> sink(depth, 0.0f);  // takes what falls outside the image
  const int64_t plane = b * s.height * s.width * step + g * depth;
  Corners c;
  for (int64_t row = 0; row < s.height; ++row) {
    for (int64_t column = 0; column < s.width; ++column) {
      const float* slope = grad + plane + (row * s.width + column) * step;
      const int64_t offsets = offsets_of(r.strides, b, g, row, column), masks = masks_of(r.strides, b, g, row, column);
      float* moved = to_offset + offsets_of(to, b, g, row, column);
      float* weighed = to_mask ? to_mask + masks_of(to, b, g, row, column) : nullptr;
      for (int64_t k = 0; k < s.points; ++k) {
        const Where where = r.corners(offsets, k, row, column, step, c);
        float across = where == kUnknown ? kNothing : 0, down = across, weight = across;
        if (where == kInside) {
          const float m = r.weight(masks, k);
          const float v0 = (1 - c.right) * (1 - c.down), v1 = c.right * (1 - c.down);
          const float v2 = (1 - c.right) * c.down, v3 = c.right * c.down;
          const float w0 = m * v0, w1 = m * v1, w2 = m * v2, w3 = m * v3;
          const float* p[4];
          float* q[4];
          for (int i = 0; i < 4; ++i) {
            p[i] = c.start[i] < 0 ? zeros.data() : value + plane + c.start[i];
            q[i] = c.start[i] < 0 ? sink.data() : to_value + plane + c.start[i];
          }
          float r0 = 0, r1 = 0, r2 = 0, r3 = 0;
#pragma omp simd reduction(+ : r0, r1, r2, r3)
          for (int64_t d = 0; d < depth; ++d) {
            const float by = slope[d];
            r0 += by * p[0][d];
            r1 += by * p[1][d];
            r2 += by * p[2][d];
            r3 += by * p[3][d];
            q[0][d] += w0 * by;
            q[1][d] += w1 * by;
            q[2][d] += w2 * by;
            q[3][d] += w3 * by;
          }
          const float by = m * r.kernel.scale;
          weight = v0 * r0 + v1 * r1 + v2 * r2 + v3 * r3;
          across = by * ((1 - c.down) * (r1 - r0) + c.down * (r3 - r2));
          down = by * ((1 - c.right) * (r2 - r0) + c.right * (r3 - r1));
        }
        float* at = moved + k * to.offset[2];
        at[0] = r.kernel.x_first ? across : down;
        at[to.offset[3]] = r.kernel.x_first ? down : across;
        if (weighed) weighed[k * to.mask[2]] = weight;
      }
    }
  }
}

template <int kDepth>
void gather(const float* value, const Reader& r, float* out, int threads) {
  const int64_t rows = r.shape.batch * r.shape.height;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < rows; ++i) gather_rows<kDepth>(value, r, out, i / r.shape.height, i % r.shape.height);
}

template <int kDepth>
void scatter(const float* grad, const float* value, const Reader& r, float* to_value, float* to_offset,
             float* to_mask, const Strides& to, int threads) {
  const int64_t tasks = r.shape.batch * r.shape.groups;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < tasks; ++i)
    scatter_group<kDepth>(grad, value, r, to_value, to_offset, to_mask, to, i / r.shape.groups, i % r.shape.groups);
}

}  // namespace

#define FOR_DEPTH(CALL)                       \
  switch (shape->depth) {                     \
    case 8: CALL(8); break;                   \
    case 16: CALL(16); break;                 \
    case 32: CALL(32); break;                 \
    case 64: CALL(64); break;                 \
    default: CALL(0);                         \
  }

extern "C" void plumbline_gather(const Shape* shape, const Strides* strides, const Kernel* kernel, const float* value,
                                 const float* offset, const float* mask, float* out, int threads) {
  const Reader r{*shape, *strides, *kernel, offset, mask};
#define CALL(DEPTH) gather<DEPTH>(value, r, out, threads)
  FOR_DEPTH(CALL)
#undef CALL
}

extern "C" void plumbline_scatter(const Shape* shape, const Strides* strides, const Kernel* kernel, const float* value,
                                  const float* offset, const float* mask, const float* grad, float* to_value,
                                  float* to_offset, float* to_mask, const Strides* to, int threads) {
  const Reader r{*shape, *strides, *kernel, offset, mask};
#define CALL(DEPTH) scatter<DEPTH>(grad, value, r, to_value, to_offset, to_mask, *to, threads)
  FOR_DEPTH(CALL)
#undef CALL
}
