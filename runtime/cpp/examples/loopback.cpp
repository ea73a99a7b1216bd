// The microphone through the codec to the loudspeaker, frame by frame, for an hour or until Ctrl-C: put headphones on.
//
//     loopback BUNDLE [STAGES [SECONDS]]
//
// Packets go through their bytes, as they would over a network.
#include <portaudio.h>

#include <cstdio>
#include <exception>
#include <string>

#include "edgecodec.hpp"

namespace {

void check(PaError error) {
  // What was late is lost, and heard as a click: no reason to end.
  if (error < 0 && error != paInputOverflowed && error != paOutputUnderflowed)
    throw edgecodec::Error(edgecodec::Error::Kind::audio, std::string("PortAudio: ") + Pa_GetErrorText(error));
}

/// PortAudio and one stream of the default devices, mono floats, closed whatever happens.
class Devices {
 public:
  Devices(double rate, unsigned long frame) {
    check(Pa_Initialize());
    PaError error = Pa_OpenDefaultStream(&stream_, 1, 1, paFloat32, rate, frame, nullptr, nullptr);
    if (error < 0) {
      Pa_Terminate();
      check(error);
    }
    check(Pa_StartStream(stream_));
  }
  ~Devices() {
    Pa_CloseStream(stream_);
    Pa_Terminate();
  }
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  void read(std::vector<float>& block) { check(Pa_ReadStream(stream_, block.data(), block.size())); }
  void write(const std::vector<float>& block) { check(Pa_WriteStream(stream_, block.data(), block.size())); }

 private:
  PaStream* stream_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) return std::fprintf(stderr, "usage: loopback BUNDLE [STAGES [SECONDS]]\n"), 2;
  try {
    edgecodec::Codec codec = edgecodec::load(argv[1]);
    edgecodec::EncoderOptions options;
    options.after_silence = true;
    if (argc > 2) options.stages = std::stoi(argv[2]);
    double seconds = argc > 3 ? std::stod(argv[3]) : 3600;
    auto encoder = codec.encoder_stream(options);
    auto decoder = codec.decoder_stream(1, true);
    auto format = codec.packet_format();
    std::vector<float> block(codec.frame_size());
    std::size_t bytes = 0, frames = 0;
    const auto most = static_cast<std::size_t>(seconds * codec.manifest().frame_rate());
    Devices devices(static_cast<double>(codec.sample_rate()), static_cast<unsigned long>(codec.frame_size()));
    for (; frames < most; ++frames) {
      devices.read(block);
      for (const auto& packet : encoder.push(block.data(), block.size())) {
        auto data = format.to_bytes(packet);
        bytes += data.size();
        devices.write(decoder.push(format.from_bytes(data)).values);
      }
    }
    std::printf("%zu frames, %zu bytes\n", frames, bytes);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
