// Verifies that this machine and this onnxruntime make of a bundle what its export did, and times a frame.
//
//     verify BUNDLE
#include <chrono>
#include <cstdio>
#include <exception>
#include <vector>

#include "edgecodec.hpp"

namespace {

using Clock = std::chrono::steady_clock;

/// Milliseconds that one frame takes at so many stages, encoding and decoding, of so many: the median, and the least.
std::pair<double, double> time_of_frame(const edgecodec::Codec& codec, int stages, int frames) {
  edgecodec::EncoderOptions options;
  options.stages = stages;
  auto encoder = codec.encoder_stream(options);
  auto decoder = codec.decoder_stream();
  std::vector<float> block(codec.frame_size());
  std::vector<double> times;
  for (int frame = 0; frame < frames; ++frame) {
    for (std::size_t i = 0; i < block.size(); ++i)
      block[i] = 0.3f * std::sin(0.07f * static_cast<float>(i + block.size() * static_cast<std::size_t>(frame)));
    auto begin = Clock::now();
    for (const auto& packet : encoder.push(block.data(), block.size())) decoder.push(packet);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[0]};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: verify BUNDLE\n");
    return 2;
  }
  try {
    auto begin = Clock::now();
    edgecodec::Codec codec = edgecodec::load(argv[1]);
    std::printf("%s: %zu Hz, %zu samples a frame, loaded in %.2f s\n", codec.manifest().name.c_str(),
                codec.sample_rate(), codec.frame_size(), std::chrono::duration<double>(Clock::now() - begin).count());
    bool passed = true;
    for (const auto& result : edgecodec::verify(codec)) {
      std::printf("%2zu stages: %.2f %% of codes equal, decoded audio within %.1e, entropy model %s: %s\n",
                  result.stages, 100 * result.equal_codes, result.decoded_error,
                  result.coded_equal ? "equal" : "DIFFERS", result.passed() ? "passed" : "FAILED");
      passed = passed && result.passed();
    }
    int stages = static_cast<int>(std::min<std::size_t>(8, codec.max_stages()));
    if (codec.manifest().channels == 1) {
      auto [median, least] = time_of_frame(codec, stages, 300);
      std::printf("one frame at %d stages, encode + decode: %.2f ms, %.2f at best\n", stages, median, least);
    }
    return passed ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
