// WAV files to .edgc files and back, at the rate of the codec.
//
//     wav encode BUNDLE -b KBPS IN.wav OUT.edgc              the mean, with the stages in each frame its sound needs
//     wav encode BUNDLE --quality 0..10 IN.wav OUT.edgc      the price of a bit, whatever the bitrate
//     wav encode BUNDLE -q STAGES IN.wav OUT.edgc            as many in every frame
//     wav decode BUNDLE IN.edgc OUT.wav
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include "edgecodec.hpp"

namespace {

using edgecodec::Audio;
using edgecodec::Bytes;

[[noreturn]] void refuse(const std::string& what) { throw edgecodec::Error(edgecodec::Error::Kind::audio, what); }

std::uint32_t number(const char* data, int bytes) {
  std::uint32_t found = 0;
  for (int i = bytes - 1; i >= 0; --i) found = found << 8 | static_cast<unsigned char>(data[i]);
  return found;
}

/// A WAV file of 16-bit PCM or 32-bit float, read piece by piece; other encodings and rates are for sox or ffmpeg.
class WavFile {
 public:
  std::uint32_t rate = 0;
  std::size_t channels = 0;

  explicit WavFile(const std::string& path) : file_(path, std::ios::binary) {
    char head[12];
    if (!file_.read(head, 12) || std::string(head, 4) != "RIFF" || std::string(head + 8, 4) != "WAVE")
      refuse(path + ": not a WAV file");
    while (file_.read(head, 8)) {
      std::string kind(head, 4);
      std::uint32_t size = number(head + 4, 4);
      if (kind == "data") {
        left_ = size;
        break;
      }
      char format[16];
      std::uint32_t kept = kind == "fmt " && size >= 16 ? 16 : 0;
      if (kept && file_.read(format, 16)) {
        channels = number(format + 2, 2);
        rate = number(format + 4, 4);
        bits_ = number(format + 14, 2);
        is_float_ = number(format, 2) == 3;
      }
      file_.ignore(size - kept + size % 2);
    }
    if (!file_ || !channels || bits_ != (is_float_ ? 32u : 16u))
      refuse(path + ": not WAV of 16-bit PCM or 32-bit float");
  }

  /// Up to so many samples of each channel, none at the end.
  Audio read(std::size_t samples) {
    std::size_t each = bits_ / 8, frame = each * channels;
    std::string data(std::min<std::uint64_t>(left_, samples * frame), '\0');
    file_.read(data.data(), static_cast<std::streamsize>(data.size()));
    samples = static_cast<std::size_t>(file_.gcount()) / frame;
    left_ -= static_cast<std::uint32_t>(samples * frame);
    Audio audio(channels, samples);
    for (std::size_t t = 0; t < samples; ++t)
      for (std::size_t c = 0; c < channels; ++c) {
        std::uint32_t bits = number(data.data() + t * frame + c * each, static_cast<int>(each));
        float sample = static_cast<float>(static_cast<std::int16_t>(bits)) / 32768;
        if (is_float_) std::memcpy(&sample, &bits, 4);
        audio.channel(c)[t] = sample;
      }
    return audio;
  }

 private:
  std::ifstream file_;
  std::uint32_t bits_ = 0;
  std::uint64_t left_ = 0;
  bool is_float_ = false;
};

/// Writes 16-bit PCM; `close` fills in the sizes.
class WavWriter {
 public:
  WavWriter(const std::string& path, std::size_t rate, std::size_t channels)
      : file_(path, std::ios::binary), rate_(rate), channels_(channels) {
    write_header(0);
  }
  void write(const Audio& audio) {
    Bytes data;
    for (std::size_t t = 0; t < audio.samples; ++t)
      for (std::size_t c = 0; c < channels_; ++c) {
        long sample = std::lround(32767 * std::clamp(audio.channel(c)[t], -1.0f, 1.0f));
        edgecodec::detail::put_number(data, static_cast<std::uint64_t>(sample), 2);
      }
    put(data);
    bytes_ += data.size();
  }
  void close() {
    file_.seekp(0);
    write_header(bytes_);
    file_.close();
    if (!file_) refuse("cannot write: is the disk full?");
  }

 private:
  std::ofstream file_;
  std::size_t rate_, channels_, bytes_ = 0;

  void put(const Bytes& data) {
    file_.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  }
  void write_header(std::size_t bytes) {
    Bytes head;
    auto text = [&](const char* letters) { head.insert(head.end(), letters, letters + 4); };
    auto put_number = [&](std::size_t value, std::size_t size) { edgecodec::detail::put_number(head, value, size); };
    text("RIFF"), put_number(36 + bytes, 4), text("WAVE"), text("fmt "), put_number(16, 4);
    put_number(1, 2), put_number(channels_, 2), put_number(rate_, 4), put_number(rate_ * 2 * channels_, 4);
    put_number(2 * channels_, 2), put_number(16, 2), text("data"), put_number(bytes, 4);
    put(head);
  }
};

edgecodec::Rate rate_of(const edgecodec::Codec& codec, const std::string& option, const std::string& number) {
  if (option == "-b") return edgecodec::Rate::mean(codec, std::stod(number));
  if (option == "--quality") return edgecodec::Rate::of_quality(std::stod(number));
  if (option == "-q") return edgecodec::Rate::fixed(codec, std::stoi(number));
  refuse(option + ": -b, -q or --quality");
}

void encode(const edgecodec::Codec& codec, const edgecodec::Rate& rate, const std::string& source,
            const std::string& target) {
  WavFile wav(source);
  if (wav.rate != codec.sample_rate())
    refuse(source + ": " + std::to_string(wav.rate) + " Hz, the codec takes " + std::to_string(codec.sample_rate()) +
           ": resample it first");
  std::ofstream file(target, std::ios::binary);
  auto write = [&](edgecodec::View data) {
    file.write(reinterpret_cast<const char*>(data.data), static_cast<std::streamsize>(data.size));
  };
  edgecodec::FileEncoder encoder(codec, write, rate, wav.channels);
  for (Audio block = wav.read(wav.rate); block.samples; block = wav.read(wav.rate)) encoder.push(block);
  encoder.finish();
  file.close();
  if (!file) refuse(target + ": cannot write");
}

void decode(const edgecodec::Codec& codec, const std::string& source, const std::string& target) {
  std::ifstream file(source, std::ios::binary);
  if (!file) refuse(source + ": cannot read");
  edgecodec::Reader reader(file);
  WavWriter wav(target, codec.sample_rate(), reader.header().channels);
  auto report = edgecodec::decode_file(codec, reader, [&](const Audio& block) { wav.write(block); });
  wav.close();
  for (const std::string& damage : report.damage) std::fprintf(stderr, "%s: %s\n", source.c_str(), damage.c_str());
  if (reader.header().sample_rate != codec.sample_rate())
    std::fprintf(stderr, "%s: was %zu Hz, written at %zu Hz\n", source.c_str(), reader.header().sample_rate,
                 codec.sample_rate());
}

}  // namespace

int main(int argc, char** argv) {
  std::string what = argc > 1 ? argv[1] : "";
  try {
    if (what == "encode" && argc == 7) {
      auto codec = edgecodec::load(argv[2]);
      encode(codec, rate_of(codec, argv[3], argv[4]), argv[5], argv[6]);
    } else if (what == "decode" && argc == 5) {
      decode(edgecodec::load(argv[2]), argv[3], argv[4]);
    } else {
      std::fprintf(stderr,
                   "usage: wav encode BUNDLE -b KBPS | -q STAGES | --quality 0..10 IN.wav OUT.edgc\n"
                   "       wav decode BUNDLE IN.edgc OUT.wav\n");
      return 2;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
