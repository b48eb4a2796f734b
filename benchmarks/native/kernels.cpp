// Times one product, in turns with reading its weights and with the processor's own peak, and prints
// the medians as a line of JSON. Driven by benchmarks/kernels.py:
//   kernel_bench ISA FORMAT ROWS COLS M THREADS MEGABYTES REPEATS
// Enough copies of the matrix are made to fill MEGABYTES, so that weights come from memory.
//   kernel_bench ISA THREADS MEGABYTES REPEATS
// prints the ceilings alone, the best of all repeats; for benchmarks/ceilings.py.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ceilings.h"
#include "matmul.h"
#include "weight_memory.h"

namespace stoker::bench {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Runs a job on all threads at once, with little delay to start and end it.
class Crew {
 public:
  explicit Crew(int size) : size_(size) {
    for (int t = 1; t < size; ++t)
      threads_.emplace_back([this, t] {
        for (int seen = 0;;) {
          while (turn_.load(std::memory_order_acquire) == seen) std::this_thread::yield();
          ++seen;
          if (!job_) return;
          job_(t);
          left_.fetch_sub(1, std::memory_order_release);
        }
      });
  }
  ~Crew() {
    job_ = nullptr;
    turn_.fetch_add(1, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
  }

  // Seconds that job(0) … job(size - 1) took together.
  double time(const std::function<void(int)>& job) {
    job_ = job;
    left_ = size_ - 1;
    const double start = now();
    turn_.fetch_add(1, std::memory_order_release);
    job_(0);
    while (left_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    return now() - start;
  }

 private:
  int size_;
  std::vector<std::thread> threads_;
  std::function<void(int)> job_;
  std::atomic<int> turn_{0}, left_{0};
};

// The instruction set of that name, if the processor has it.
Isa isa_from(const char* name) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx})
    if (isa_name(isa) == name && isa_available(isa)) return isa;
  std::fprintf(stderr, "no such instruction set here: %s\n", name);
  std::exit(2);
}

// Multiply-adds per second of all threads together; 0 without an instruction to speak of.
double peak_rate(Crew& crew, int threads, Peak peak) {
  if (!peak) return 0;
  std::vector<double> macs(threads);
  const double seconds = crew.time([&](int t) { macs[t] = peak(100000); });
  double all = 0;
  for (double n : macs) all += n;
  return all / seconds;
}

struct Options {
  Isa isa;
  WeightFormat format;
  int rows, cols, m, threads;
  double megabytes;
  int repeats;
};

Options parse(char** argv) {
  Options o;
  o.isa = isa_from(argv[1]);
  const auto format = format_from_name(argv[2]);
  if (!format) {
    std::fprintf(stderr, "no such format: %s\n", argv[2]);
    std::exit(2);
  }
  o.format = *format;
  o.rows = std::atoi(argv[3]);
  o.cols = std::atoi(argv[4]);
  o.m = std::atoi(argv[5]);
  o.threads = std::atoi(argv[6]);
  o.megabytes = std::atof(argv[7]);
  o.repeats = std::atoi(argv[8]);
  return o;
}

std::vector<PackedMatrix> random_matrices(const Options& o, size_t& bytes) {
  const TensorType type = o.format == WeightFormat::q4   ? TensorType::q4_0
                          : o.format == WeightFormat::q8 ? TensorType::q8_0
                                                         : TensorType::bf16;
  const size_t stride = encoded_row_bytes(type, o.cols);
  std::vector<uint8_t> data(stride * o.rows);
  std::mt19937 random(1);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random() & 0x3B);  // small, finite scales
  std::vector<PackedMatrix> matrices;
  bytes = 0;
  do {
    matrices.push_back(pack({data.data(), type, o.rows, o.cols, stride}, o.format));
    bytes += matrices.back().nbytes();
  } while (static_cast<double>(bytes) < o.megabytes * 1e6);
  return matrices;
}

void run(const Options& o) {
  size_t bytes = 0;
  const std::vector<PackedMatrix> matrices = random_matrices(o, bytes);
  const MatmulKernels& kernels = matmul_kernels(o.isa);
  const ActivationFormat format = activation_format(o.format);
  std::vector<float> input(static_cast<size_t>(o.m) * o.cols);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& value : input) value = normal(random);
  void* buffer = std::aligned_alloc(64, activation_bytes(format, o.m, o.cols));
  const Activations x = lay_out_activations(buffer, format, o.m, o.cols);
  std::vector<float> out(static_cast<size_t>(o.m) * o.rows);

  Crew crew(o.threads);
  const auto share = [&](int whole, int t) { return whole * t / o.threads; };
  std::atomic<uint64_t> sink{0};
  const auto rounding = [&](int t) {
    round_activations(kernels, input.data(), o.cols, share(o.m, t), share(o.m, t + 1), x);
  };
  const auto multiply = [&](int t) {
    for (const PackedMatrix& w : matrices)
      matmul(kernels, w, x, 0, o.m, share(w.panels(), t), share(w.panels(), t + 1), out.data(),
             o.rows);
  };
  const auto read = [&](int t) {
    for (const PackedMatrix& w : matrices) {
      const size_t part = w.nbytes() / o.threads;
      sink |= read_memory(w.codes(0) + part * t, part);
    }
  };
  const Peak peak = peak_of(o.isa, o.format == WeightFormat::bf16);
  std::vector<double> product_s, read_s, rounding_s, peaks;
  for (int i = 0; i < o.repeats; ++i) {
    rounding_s.push_back(crew.time(rounding));
    read_s.push_back(crew.time(read));
    product_s.push_back(crew.time(multiply));
    peaks.push_back(peak_rate(crew, o.threads, peak));
  }
  std::free(buffer);
  const double seconds = median(product_s);
  const double macs = static_cast<double>(o.rows) * o.cols * o.m * matrices.size();
  std::printf(
      "{\"megabytes\": %.1f, \"seconds\": %.6g, \"gb_per_s\": %.2f, \"gmac_per_s\": %.2f, "
      "\"read_gb_per_s\": %.2f, \"peak_gmac_per_s\": %.2f, \"rounding_us\": %.3f}\n",
      bytes / 1e6, seconds, bytes / seconds / 1e9, macs / seconds / 1e9,
      bytes / median(read_s) / 1e9, median(peaks) / 1e9,
      median(rounding_s) * 1e6);
}

void ceilings(Isa isa, int threads, double megabytes, int repeats) {
  const auto part = static_cast<size_t>(megabytes * 1e6) / threads / 4096 * 4096;
  const std::shared_ptr<uint8_t> memory = allocate_weights(part * threads);  // pages as weights'
  std::fill_n(memory.get(), part * threads, uint8_t{1});
  Crew crew(threads);
  std::atomic<uint64_t> sink{0};
  const int passes = std::max(1, static_cast<int>(256 / megabytes));  // a small one lasts too
  double read = 0, int8 = 0, bf16 = 0;
  for (int i = 0; i < repeats; ++i) {
    const double seconds = crew.time([&](int t) {
      for (int pass = 0; pass < passes; ++pass)
        sink |= read_memory(memory.get() + part * t, part);
    });
    read = std::max(read, passes * part * threads / seconds);
    int8 = std::max(int8, peak_rate(crew, threads, peak_of(isa, false)));
    bf16 = std::max(bf16, peak_rate(crew, threads, peak_of(isa, true)));
  }
  std::printf("{\"read_gb_per_s\": %.2f, \"int8_gmac_per_s\": %.2f, \"bf16_gmac_per_s\": %.2f}\n",
              read / 1e9, int8 / 1e9, bf16 / 1e9);
}

}  // namespace
}  // namespace stoker::bench

int main(int argc, char** argv) {
  using namespace stoker::bench;
  if (argc == 5)
    ceilings(isa_from(argv[1]), std::atoi(argv[2]), std::atof(argv[3]), std::atoi(argv[4]));
  else if (argc == 9)
    run(parse(argv));
  else
    return std::fprintf(stderr,
                        "usage: %s ISA FORMAT ROWS COLS M THREADS MEGABYTES REPEATS\n"
                        "       %s ISA THREADS MEGABYTES REPEATS\n", argv[0], argv[0]), 2;
  return 0;
}
