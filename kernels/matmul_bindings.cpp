// Python access to packing and to single products, for loading models, tests and benchmarks.
#include "matmul_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "matmul.h"

namespace nb = nanobind;

namespace stoker {
namespace {

using Rows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<nb::numpy, float>;

template <typename T>
nb::ndarray<nb::numpy, T> new_array(std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (size_t n : shape) size *= n;
  auto* data = new T[size]();
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

const MatmulKernels& kernels_by_name(const std::string& name) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx})
    if (isa_name(isa) == name && isa_available(isa)) return matmul_kernels(isa);
  throw std::invalid_argument("instruction set '" + name +
                              "' cannot be used here; available_isas() lists those that can");
}

struct RoundedRows {
  std::unique_ptr<void, decltype(&std::free)> buffer{nullptr, &std::free};
  Activations activations;
};

RoundedRows round_rows(const MatmulKernels& kernels, const Floats& x, ActivationFormat format) {
  const int rows = static_cast<int>(x.shape(0)), cols = static_cast<int>(x.shape(1));
  RoundedRows rounded;
  rounded.buffer.reset(std::aligned_alloc(64, activation_bytes(format, rows, cols)));
  if (!rounded.buffer) throw std::bad_alloc();
  rounded.activations = lay_out_activations(rounded.buffer.get(), format, rows, cols);
  round_activations(kernels, x.data(), cols, 0, rows, rounded.activations);
  return rounded;
}

PackedMatrix pack_rows(const Rows& data, const std::string& type_name, int64_t cols,
                       const std::optional<std::string>& format_name_) {
  const auto type = tensor_type_from_name(type_name);
  if (!type) throw std::invalid_argument("unknown tensor type '" + type_name + "'");
  const auto format = format_name_ ? format_from_name(*format_name_) : natural_format(*type);
  if (!format)
    throw std::invalid_argument("unknown weight format '" + *format_name_ +
                                "'; expected q4, q8 or bf16");
  const size_t row_bytes = encoded_row_bytes(*type, cols);
  const bool laid_out = data.shape(0) == 0 || data.stride(1) == 1;
  if (data.shape(1) != row_bytes || !laid_out ||
      (data.shape(0) > 1 && data.stride(0) < static_cast<int64_t>(row_bytes)))
    throw std::invalid_argument(type_name + " rows of " + std::to_string(cols) + " columns are " +
                                std::to_string(row_bytes) + " contiguous bytes; got an array [" +
                                std::to_string(data.shape(0)) + ", " +
                                std::to_string(data.shape(1)) + "]");
  const EncodedMatrix source{data.data(), *type, static_cast<int64_t>(data.shape(0)), cols,
                             static_cast<size_t>(data.stride(0))};
  nb::gil_scoped_release release;
  return pack(source, *format);
}

FloatArray dequantize_rows(const PackedMatrix& matrix, int64_t begin, int64_t end) {
  if (begin < 0 || begin > end || end > matrix.rows())
    throw std::invalid_argument("rows " + std::to_string(begin) + " to " + std::to_string(end) +
                                " are not within the matrix's " + std::to_string(matrix.rows()));
  auto out = new_array<float>({static_cast<size_t>(end - begin),
                               static_cast<size_t>(matrix.cols())});
  for (int64_t row = begin; row < end; ++row)
    matrix.dequantize_row(row, out.data() + (row - begin) * matrix.cols());
  return out;
}

nb::tuple quantize(const Floats& x, const std::string& isa) {
  const RoundedRows rounded = round_rows(kernels_by_name(isa), x, ActivationFormat::int8);
  const Activations& a = rounded.activations;
  const auto rows = static_cast<size_t>(a.rows), blocks = static_cast<size_t>(a.blocks);
  auto codes = new_array<int16_t>({rows, blocks * kBlockCols});
  auto scales = new_array<float>({rows, blocks});
  auto sums = new_array<int32_t>({rows, blocks});
  auto scaled_sums = new_array<float>({rows, blocks});
  for (size_t i = 0; i < rows * blocks; ++i) {
    const ActivationBlock& block = a.quantized[i];
    int16_t* out = codes.data() + i * kBlockCols;
    std::copy(block.codes, block.codes + kBlockCols, out);
    if (block.outlier_quad != kNoOutlier)
      for (int c = 0; c < 4; ++c)
        out[block.outlier_quad * 4 + c] += static_cast<int16_t>(block.outlier[c] * 128);
    scales.data()[i] = block.scale;
    sums.data()[i] = -block.neg_sum;
    scaled_sums.data()[i] = block.scaled_sum;
  }
  return nb::make_tuple(codes, scales, sums, scaled_sums);
}

// Rows [m_begin, m_end) × panels [panel_begin, panel_end); other outputs are left at zero.
FloatArray product(const Floats& x, const PackedMatrix& weights, const std::string& isa,
                   std::optional<std::pair<int, int>> rows,
                   std::optional<std::pair<int, int>> panels) {
  if (static_cast<int64_t>(x.shape(1)) != weights.cols())
    throw std::invalid_argument("x has " + std::to_string(x.shape(1)) +
                                " columns, the weights " + std::to_string(weights.cols()));
  const MatmulKernels& kernels = kernels_by_name(isa);
  const RoundedRows rounded = round_rows(kernels, x, activation_format(weights.format()));
  const int m = static_cast<int>(x.shape(0));
  const auto [m_begin, m_end] = rows.value_or(std::pair{0, m});
  const auto [panel_begin, panel_end] = panels.value_or(std::pair{0, weights.panels()});
  if (m_begin < 0 || m_end > m || panel_begin < 0 || panel_end > weights.panels())
    throw std::invalid_argument("a range of rows or panels lies outside the product");
  auto out = new_array<float>({x.shape(0), static_cast<size_t>(weights.rows())});
  nb::gil_scoped_release release;
  matmul(kernels, weights, rounded.activations, m_begin, m_end, panel_begin, panel_end, out.data(),
         weights.rows());
  return out;
}

}  // namespace

void bind_matmul(nb::module_& m) {
  nb::class_<PackedMatrix>(m, "PackedMatrix",
                           "A weight matrix [rows, cols] in the layout that the kernels stream.")
      .def_prop_ro(
          "format", [](const PackedMatrix& w) { return std::string(format_name(w.format())); },
          "'q4', 'q8' or 'bf16'")
      .def_prop_ro("rows", &PackedMatrix::rows)
      .def_prop_ro("cols", &PackedMatrix::cols)
      .def_prop_ro("panels", &PackedMatrix::panels, "panels of 16 rows")
      .def_prop_ro("has_mins", &PackedMatrix::has_mins)
      .def_prop_ro("nbytes", &PackedMatrix::nbytes)
      .def("dequantize_rows", &dequantize_rows, nb::arg("begin"), nb::arg("end"),
           "Rows [begin, end) as float32, the weights exactly as the products use them.");
  m.def("pack", &pack_rows, nb::arg("data"), nb::arg("type"), nb::arg("cols"),
        nb::arg("format") = nb::none(),
        "Pack encoded rows, uint8 [rows, bytes per row], of a tensor type such as 'Q4_0' and "
        "`cols` columns. `format` is 'q4', 'q8' or 'bf16'; by default the one that loses least.");
  m.def("quantize_activations", &quantize, nb::arg("x"), nb::arg("isa"),
        "x, float32 [m, k], as (codes int16 [m, k padded to 32], beyond ±127 only in outlier quads; "
        "scales [m, blocks]; sums int32 [m, blocks]; scales * sums).");
  m.def("matmul", &product, nb::arg("x"), nb::arg("weights"), nb::arg("isa"),
        nb::arg("rows") = nb::none(), nb::arg("panels") = nb::none(),
        "x @ weights.T, float32 [m, rows of the weights], on one thread. `rows` and `panels` are "
        "ranges (begin, end) of x's rows and of panels; outputs outside them are zero.");
}

}  // namespace stoker
