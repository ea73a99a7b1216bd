// edgecodec.hpp: the runtime of edgecodec in one header (C++17), over onnxruntime, nlohmann-json and zlib.
//
//     edgecodec::Codec codec = edgecodec::load("speech");                 // the folder of a bundle
//     edgecodec::Codes codes = codec.encode(audio, 8);                    // [streams, stages, frames]
//     edgecodec::Audio again = codec.decode(codes, audio.samples);
//
// Whole clips, streams, packets, and .edgc files, as the Python package does them; functions are named as there. A
// Codec is immutable and shared between threads; a stream belongs to one thread at a time. All that is wrong is thrown
// as edgecodec::Error, in one line. runtime/docs/cpp.md begins with nothing and ends with sound.
//
// Define EDGECODEC_DLOPEN to find onnxruntime when the program runs, in place of linking it: see `open_runtime`.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iomanip>
#include <istream>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <ostream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef EDGECODEC_DLOPEN
#include <dlfcn.h>
#ifndef ORT_API_MANUAL_INIT
#define ORT_API_MANUAL_INIT
#endif
#endif
#include <onnxruntime_cxx_api.h>

namespace edgecodec {

// ---------------------------------------------------------------------------------------------------------- errors

/// All that this header throws. The message is one line: what is wrong, where, and what to do about it.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    bundle,     // a bundle that is missing, altered, newer, or contradicts itself
    bitstream,  // codes, a packet or a file that is damaged, truncated, or made with another bundle
    bitrate,    // a stage count or bitrate that the bundle does not offer
    audio,      // audio that cannot be encoded
  };

  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}

  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

namespace detail {

inline std::string text_of(const char* text) { return text; }
inline std::string text_of(const std::string& text) { return text; }
inline std::string text_of(double number, int digits = 6) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.*g", digits, number);
  return text.data();
}
template <class Whole, class = std::enable_if_t<std::is_integral_v<Whole>>>
std::string text_of(Whole number) {
  return std::to_string(number);
}

[[noreturn]] inline void raise(Error::Kind kind, std::initializer_list<std::string> parts) {
  std::string message;
  for (const std::string& part : parts) message += part;
  throw Error(kind, message);
}

template <class... Parts>
[[noreturn]] void fail(Error::Kind kind, const Parts&... parts) {
  raise(kind, {text_of(parts)...});
}

template <class... Parts>
[[noreturn]] void fail_bundle(const Parts&... parts) {
  fail(Error::Kind::bundle, parts...);
}

template <class... Parts>
[[noreturn]] void fail_bitstream(const Parts&... parts) {
  fail(Error::Kind::bitstream, parts...);
}

inline std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

/// Python's way to write a list, as messages have it.
template <class Numbers>
std::string listed(const Numbers& numbers) {
  std::string text;
  for (auto number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return "[" + text + "]";
}

/// One line of at most 300 characters of what another library says.
inline std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line, word;
  while (words >> word) line += (line.empty() ? "" : " ") + word;
  return line.substr(0, 300);
}

/// UTF-8 without the characters that do not print: controls, odd spaces, what stands for nothing.
inline bool is_printable(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    auto first = static_cast<unsigned char>(text[i++]);
    int more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : first >> 3 == 30 ? 3 : -1;
    if (more < 0) return false;
    std::uint32_t letter = more ? first & (0x3Fu >> more) : first;
    for (int k = 0; k < more; ++k, ++i) {
      if (i >= text.size() || (text[i] & 0xC0) != 0x80) return false;
      letter = letter << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
    }
    const std::array<std::uint32_t, 4> least = {0, 0x80, 0x800, 0x10000};
    auto between = [&](std::uint32_t a, std::uint32_t b) { return a <= letter && letter <= b; };
    if (letter < least[static_cast<std::size_t>(more)] || letter > 0x10FFFF) return false;
    if (letter < 0x20 || between(0x7F, 0xA0) || letter == 0xAD || between(0x2000, 0x200F) || between(0x2028, 0x202F) ||
        between(0x205F, 0x206F) || letter == 0x3000 || between(0xD800, 0xF8FF) || letter == 0xFEFF)
      return false;
  }
  return true;
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------- arrays

/// An array of three dimensions, the last one side by side in memory.
template <class T>
struct Array3 {
  std::array<std::size_t, 3> shape{};
  std::vector<T> values;

  Array3() = default;
  Array3(std::size_t a, std::size_t b, std::size_t c, T fill = T{}) : shape{a, b, c}, values(a * b * c, fill) {}

  bool empty() const { return values.empty(); }
  /// Whether there are as many values as the shape says.
  bool is_filled() const { return values.size() == shape[0] * shape[1] * shape[2]; }
  T& operator()(std::size_t a, std::size_t b, std::size_t c) { return values[(a * shape[1] + b) * shape[2] + c]; }
  const T& operator()(std::size_t a, std::size_t b, std::size_t c) const {
    return values[(a * shape[1] + b) * shape[2] + c];
  }
  friend bool operator==(const Array3& x, const Array3& y) { return x.shape == y.shape && x.values == y.values; }
  friend bool operator!=(const Array3& x, const Array3& y) { return !(x == y); }

  /// What lies from `first` to before `end` in one dimension.
  Array3 part(std::size_t dimension, std::size_t first, std::size_t end) const {
    Array3 cut = *this;
    if (first == 0 && end == shape[dimension]) return cut;
    cut.shape[dimension] = end - first;
    cut.values.clear();
    auto [blocks, inner] = around(dimension);
    for (std::size_t block = 0; block < blocks; ++block) {
      auto begin = values.begin() + static_cast<std::ptrdiff_t>((block * shape[dimension] + first) * inner);
      cut.values.insert(cut.values.end(), begin, begin + static_cast<std::ptrdiff_t>((end - first) * inner));
    }
    return cut;
  }

  /// This array, and another behind it in one dimension.
  void append(std::size_t dimension, const Array3& other) {
    if (shape[dimension] == 0) {
      *this = other;
      return;
    }
    if (other.shape[dimension] == 0) return;
    auto [blocks, inner] = around(dimension);
    std::vector<T> joined;
    joined.reserve(values.size() + other.values.size());
    for (std::size_t block = 0; block < blocks; ++block)
      for (const Array3* each : {static_cast<const Array3*>(this), &other}) {
        std::size_t size = each->shape[dimension] * inner;
        auto begin = each->values.begin() + static_cast<std::ptrdiff_t>(block * size);
        joined.insert(joined.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
      }
    values = std::move(joined);
    shape[dimension] += other.shape[dimension];
  }

 private:
  /// Blocks before a dimension, and numbers behind each of its places.
  std::pair<std::size_t, std::size_t> around(std::size_t dimension) const {
    std::size_t blocks = 1, inner = 1;
    for (std::size_t i = 0; i < dimension; ++i) blocks *= shape[i];
    for (std::size_t i = dimension + 1; i < 3; ++i) inner *= shape[i];
    return {blocks, inner};
  }
};

/// Codes [streams, lines, frames]: a stream is a channel (or a pair of a stereo bundle), a line is a stage of most
/// bundles. -1 stands in place of the last stages where a frame has fewer than others.
using Codes = Array3<std::int64_t>;

using Floats = Array3<float>;  // latents [B, T, D], or audio [B, C, samples]

/// Audio in [-1, 1], channel behind channel.
struct Audio {
  std::size_t channels = 0, samples = 0;
  std::vector<float> values;

  Audio() = default;
  Audio(std::size_t channels_, std::size_t samples_) : Audio(channels_, samples_, {}) {
    values.resize(channels * samples);
  }
  Audio(std::size_t channels_, std::size_t samples_, std::vector<float> values_)
      : channels(channels_), samples(samples_), values(std::move(values_)) {}
  /// One channel.
  explicit Audio(std::vector<float> mono) : channels(1), samples(mono.size()), values(std::move(mono)) {}

  float* channel(std::size_t i) { return values.data() + i * samples; }
  const float* channel(std::size_t i) const { return values.data() + i * samples; }

  /// The samples from `first` to before `end`.
  Audio part(std::size_t first, std::size_t end) const {
    Floats cut = as_array().part(2, first, end);
    return Audio(channels, end - first, std::move(cut.values));
  }

  /// The same channels for longer.
  void append(const Audio& other) {
    if (!channels) channels = other.channels;
    Floats joined = as_array();
    joined.append(2, other.as_array());
    samples += other.samples;
    values = std::move(joined.values);
  }

 private:
  Floats as_array() const {
    Floats array;
    array.shape = {1, channels, samples};
    array.values = values;
    return array;
  }
};

// ----------------------------------------------------------------------------------------------- bytes and checksums

using Bytes = std::vector<std::uint8_t>;

/// Bytes that lie elsewhere, for as long as they do.
struct View {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;

  View() = default;
  View(const std::uint8_t* data_, std::size_t size_) : data(data_), size(size_) {}
  View(const Bytes& bytes) : View(bytes.data(), bytes.size()) {}

  std::uint8_t operator[](std::size_t i) const { return data[i]; }
  const std::uint8_t* begin() const { return data; }
  const std::uint8_t* end() const { return data + size; }
  /// From `first` up to `last`, or to the end.
  View part(std::size_t first, std::size_t last = std::numeric_limits<std::size_t>::max()) const {
    first = std::min(first, size);
    return View(data + first, std::min(last, size) - first);
  }
  Bytes copy() const { return Bytes(begin(), end()); }
};

using Fingerprint = std::array<std::uint8_t, 8>;

namespace detail {

/// The number of `size` bytes at `at`, little-endian; they must be there.
inline std::uint64_t number_at(View data, std::size_t at, std::size_t size) {
  std::uint64_t number = 0;
  for (std::size_t i = size; i-- > 0;) number = number << 8 | data[at + i];
  return number;
}

inline void put_number(Bytes& data, std::uint64_t number, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) data.push_back(static_cast<std::uint8_t>(number >> 8 * i));
}

inline void put_bytes(Bytes& data, View more) { data.insert(data.end(), more.begin(), more.end()); }

inline std::string hex(View data) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  for (std::uint8_t byte : data) (text += digits[byte >> 4]) += digits[byte & 15];
  return text;
}

/// CRC-16/CCITT-FALSE, of packets and chunks.
inline std::uint16_t crc16(View data) {
  static const auto table = [] {
    std::array<std::uint16_t, 256> made{};
    for (unsigned byte = 0; byte < 256; ++byte) {
      unsigned crc = byte << 8;
      for (int bit = 0; bit < 8; ++bit) crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
      made[byte] = static_cast<std::uint16_t>(crc);
    }
    return made;
  }();
  unsigned crc = 0xFFFF;
  for (std::uint8_t byte : data) crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte];
  return static_cast<std::uint16_t>(crc);
}

/// The CRC-32 of zip, of more bytes after those of `before`.
inline std::uint32_t crc32_of(View data, std::uint32_t before = 0) {
  uLong crc = before;
  for (std::size_t at = 0; at < data.size;) {
    std::size_t piece = std::min<std::size_t>(data.size - at, 1u << 30);
    crc = ::crc32(crc, data.data + at, static_cast<uInt>(piece));
    at += piece;
  }
  return static_cast<std::uint32_t>(crc);
}

inline void seal(Bytes& data) { put_number(data, crc16(data), 2); }

/// Whether bytes end with the CRC-16 of those before.
inline bool is_sound(View data) {
  return data.size >= 2 && number_at(data, data.size - 2, 2) == crc16(data.part(0, data.size - 2));
}

/// SHA-256 (FIPS 180-4).
inline std::array<std::uint8_t, 32> sha256(View data) {
  static const std::array<std::uint32_t, 64> k = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<std::uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  auto rotate = [](std::uint32_t x, int by) { return x >> by | x << (32 - by); };
  auto block = [&](const std::uint8_t* bytes) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i)
      for (std::size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | bytes[4 * i + j];
    for (std::size_t i = 16; i < 64; ++i) {
      std::uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      std::uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, last] = h;
    for (std::size_t i = 0; i < 64; ++i) {
      std::uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      std::uint32_t one = last + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i];
      std::uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      std::uint32_t two = s0 + ((a & b) ^ (a & c) ^ (b & c));
      last = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    const std::array<std::uint32_t, 8> made = {a, b, c, d, e, f, g, last};
    for (std::size_t i = 0; i < 8; ++i) h[i] += made[i];
  };
  std::size_t whole = data.size / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) block(data.data + at);
  Bytes rest = data.part(whole).copy();
  rest.push_back(0x80);
  while (rest.size() % 64 != 56) rest.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8)
    rest.push_back(static_cast<std::uint8_t>(static_cast<std::uint64_t>(data.size) * 8 >> shift));
  for (std::size_t at = 0; at < rest.size(); at += 64) block(rest.data() + at);
  std::array<std::uint8_t, 32> digest{};
  for (std::size_t i = 0; i < 32; ++i) digest[i] = static_cast<std::uint8_t>(h[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

// ------------------------------------------------------------------------------------------- zip and npy, of numpy

struct NpyArray {
  std::string type;  // as numpy writes it: "<f4", "|i1"
  std::vector<std::size_t> shape;
  Bytes data;

  /// The numbers, whose type must be that of the array.
  template <class T>
  std::vector<T> numbers() const {
    std::vector<T> made(data.size() / sizeof(T));
    for (std::size_t i = 0; i < made.size(); ++i) {
      // Little-endian, whatever this machine is.
      std::uint64_t bits = number_at(data, i * sizeof(T), sizeof(T));
      if constexpr (std::is_same_v<T, float>) {
        auto narrow = static_cast<std::uint32_t>(bits);
        std::memcpy(&made[i], &narrow, sizeof narrow);
      } else {
        made[i] = static_cast<T>(bits);
      }
    }
    return made;
  }
};

[[noreturn]] inline void no_npz(const std::string& why) { fail_bitstream("no npz of plain arrays: ", why); }

/// What a zip holds at its file, of known size.
inline Bytes inflated(View packed, std::size_t size) {
  Bytes data(size + 1);  // one more: a stream that goes on is found out
  z_stream stream{};
  if (inflateInit2(&stream, -15) != Z_OK) no_npz("zlib does not start");
  stream.next_in = const_cast<std::uint8_t*>(packed.data);
  stream.avail_in = static_cast<uInt>(packed.size);
  stream.next_out = data.data();
  stream.avail_out = static_cast<uInt>(data.size());
  int result = inflate(&stream, Z_FINISH);
  std::size_t made = stream.total_out;
  inflateEnd(&stream);
  if (result != Z_STREAM_END || made != size) no_npz("a file of the zip is damaged");
  data.resize(size);
  return data;
}

/// The header of an array is believed only as far as its bytes go.
inline NpyArray read_npy(const Bytes& data) {
  const std::array<std::uint8_t, 6> magic = {0x93, 'N', 'U', 'M', 'P', 'Y'};
  if (data.size() < 10 || !std::equal(magic.begin(), magic.end(), data.begin())) no_npz("an array without its magic");
  std::size_t wide = data[6] == 1 ? 2 : 4;
  if ((data[6] != 1 && data[6] != 2) || data[7] != 0 || data.size() < 8 + wide) no_npz("an array of a later version");
  std::size_t begin = 8 + wide, length = number_at(data, 8, wide);
  if (length > std::min<std::size_t>(data.size() - begin, 10000)) no_npz("an array's header is cut off");
  std::string text(data.begin() + static_cast<std::ptrdiff_t>(begin),
                   data.begin() + static_cast<std::ptrdiff_t>(begin + length));
  auto after = [&](const std::string& key) {
    std::size_t at = text.find("'" + key + "': ");
    if (at == std::string::npos) no_npz("an array's header lacks " + key);
    return at + key.size() + 4;
  };
  NpyArray array;
  std::size_t kind = after("descr"), shape = after("shape");
  if (text.compare(after("fortran_order"), 5, "False") != 0) no_npz("an array in Fortran's order");
  std::size_t close = text.find('\'', kind + 1);
  if (text[kind] != '\'' || close == std::string::npos) no_npz("an array of no plain type");
  array.type = text.substr(kind + 1, close - kind - 1);
  if (array.type.size() != 3 || !std::strchr("<|", array.type[0]) || !std::strchr("iuf", array.type[1]) ||
      !std::strchr("1248", array.type[2]))
    no_npz("an array of type " + array.type.substr(0, 20));
  std::size_t item = static_cast<std::size_t>(array.type[2] - '0'), bytes = item, end = text.find(')', shape);
  if (text[shape] != '(' || end == std::string::npos) no_npz("an array without a shape");
  std::istringstream lengths(text.substr(shape + 1, end - shape - 1));
  std::string each;
  while (std::getline(lengths, each, ',')) {
    each.erase(std::remove(each.begin(), each.end(), ' '), each.end());
    if (each.empty()) continue;
    if (each.size() > 10 || each.find_first_not_of("0123456789") != std::string::npos) no_npz("an array's odd shape");
    array.shape.push_back(std::stoull(each));
    bytes =
        array.shape.back() && bytes > data.size() / array.shape.back() ? data.size() + 1 : bytes * array.shape.back();
  }
  if (array.shape.size() > 8 || bytes != data.size() - begin - length)
    no_npz("an array's header contradicts its bytes");
  array.data.assign(data.begin() + static_cast<std::ptrdiff_t>(begin + length), data.end());
  return array;
}

/// The arrays of an npz whose names are wanted, none larger than `limit` bytes, and not more than four times that.
inline std::map<std::string, NpyArray> read_npz(View data, std::size_t limit,
                                                const std::function<bool(const std::string&)>& wanted) {
  constexpr std::size_t kEnd = 22, kEntry = 46, kLocal = 30;
  if (data.size < kEnd) no_npz("File is not a zip file");
  std::size_t at = data.size - kEnd, last = data.size > kEnd + 65535 ? data.size - kEnd - 65535 : 0;
  while (number_at(data, at, 4) != 0x06054B50) {
    if (at-- == last) no_npz("File is not a zip file");
  }
  std::size_t entries = number_at(data, at + 10, 2), place = number_at(data, at + 16, 4), total = 0;
  std::map<std::string, NpyArray> arrays;
  for (std::size_t i = 0; i < entries; ++i) {
    if (place > data.size || data.size - place < kEntry || number_at(data, place, 4) != 0x02014B50)
      no_npz("its directory is damaged");
    std::size_t flags = number_at(data, place + 8, 2), method = number_at(data, place + 10, 2);
    std::size_t crc = number_at(data, place + 16, 4), packed = number_at(data, place + 20, 4);
    std::size_t size = number_at(data, place + 24, 4), name_size = number_at(data, place + 28, 2);
    std::size_t local = number_at(data, place + 42, 4);
    if (data.size - place - kEntry < name_size) no_npz("its directory is damaged");
    View named = data.part(place + kEntry, place + kEntry + name_size);
    std::string name(named.begin(), named.end());
    place += kEntry + name_size + number_at(data, place + 30, 2) + number_at(data, place + 32, 2);
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
    if (!wanted(name)) continue;
    total += size;
    if (size > limit || total > 4 * limit)
      fail_bitstream("'", name.substr(0, 60), "' is larger than ", limit >> 20, " MiB");
    if (flags & 1 || (method != 0 && method != 8)) no_npz("a file of the zip is packed in another way");
    if (local > data.size || data.size - local < kLocal || number_at(data, local, 4) != 0x04034B50)
      no_npz("its directory is damaged");
    std::size_t begin = local + kLocal + number_at(data, local + 26, 2) + number_at(data, local + 28, 2);
    if (begin > data.size || data.size - begin < packed || (method == 0 && packed != size))
      no_npz("a file of the zip is cut off");
    View body = data.part(begin, begin + packed);
    Bytes content = method == 0 ? body.copy() : inflated(body, size);
    if (crc32_of(content) != crc) no_npz("Bad CRC-32 for file '" + name.substr(0, 60) + "'");
    arrays[name] = read_npy(content);
  }
  return arrays;
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------- layout

constexpr std::int64_t kMissing = -1;       // stands in the lines of stages that a frame does not have
constexpr std::size_t kSideBits = 8;        // of a number beside the stages
constexpr std::size_t kMaxLines = 1 << 16;  // code lines a frame

/// Which code lines of a frame belong to which stage: `side` lines first, then `widths[i]` of stage i; no widths: one.
struct Layout {
  std::size_t side = 0;
  std::vector<std::size_t> widths;

  bool is_plain() const { return !side && (widths.empty() || *std::max_element(widths.begin(), widths.end()) == 1); }
  std::size_t width(std::size_t stage) const { return widths.empty() ? 1 : widths[stage]; }
  /// Codes a frame of so many stages.
  std::size_t codes(std::size_t stages) const {
    if (widths.empty()) return stages;
    auto end = widths.begin() + static_cast<std::ptrdiff_t>(std::min(stages, widths.size()));
    return std::accumulate(widths.begin(), end, std::size_t{0});
  }
  /// Code lines a frame, those beside the stages too.
  std::size_t lines(std::size_t stages) const { return side + codes(stages); }
  /// The stages that so many lines hold, 0 where no stage count has so many.
  std::size_t stages(std::size_t lines) const {
    if (lines <= side) return 0;
    if (widths.empty()) return lines - side;
    for (std::size_t n = 1, found = 0; n <= widths.size(); ++n)
      if ((found += widths[n - 1]) == lines - side) return n;
    return 0;
  }
  /// Stages of each frame, [1, streams, frames].
  Array3<std::size_t> counts(const Codes& codes_) const {
    Array3<std::size_t> found(1, codes_.shape[0], codes_.shape[2]);
    for (std::size_t stage = 0, most = stages(codes_.shape[1]); stage < most; ++stage)
      for (std::size_t b = 0; b < codes_.shape[0]; ++b)
        for (std::size_t t = 0; t < codes_.shape[2]; ++t) found(0, b, t) += codes_(b, lines(stage), t) >= 0;
    return found;
  }
  /// Whether each frame has a stage, and -1 stands in all lines of the stages above its count and in no others.
  bool lacks_last_stages(const Codes& codes_) const {
    auto found = counts(codes_);
    for (std::size_t count : found.values)
      if (!count) return false;
    for (std::size_t stage = 0, most = stages(codes_.shape[1]); stage < most; ++stage)
      for (std::size_t line = lines(stage); line < lines(stage + 1); ++line)
        for (std::size_t b = 0; b < codes_.shape[0]; ++b)
          for (std::size_t t = 0; t < codes_.shape[2]; ++t)
            if ((codes_(b, line, t) == kMissing) != (stage >= found(0, b, t))) return false;
    return true;
  }
  /// Codes with no more than `counts` [1, streams, frames] stages in each frame.
  Codes cut(Codes codes_, const Array3<std::size_t>& counts_) const {
    for (std::size_t stage = 0, most = stages(codes_.shape[1]); stage < most; ++stage)
      for (std::size_t line = lines(stage); line < lines(stage + 1); ++line)
        for (std::size_t b = 0; b < codes_.shape[0]; ++b)
          for (std::size_t t = 0; t < codes_.shape[2]; ++t)
            if (stage >= counts_(0, b, t)) codes_(b, line, t) = kMissing;
    return codes_;
  }
  /// Codes without the lines of stages that no frame has.
  Codes trimmed(const Codes& codes_) const {
    auto found = counts(codes_);
    std::size_t most = found.empty() ? 0 : *std::max_element(found.values.begin(), found.values.end());
    return codes_.part(1, 0, lines(most));
  }

  friend bool operator==(const Layout& x, const Layout& y) { return x.side == y.side && x.widths == y.widths; }
};

namespace detail {

/// Whether every frame has all the stages of its codes.
inline bool is_whole(const Codes& codes) {
  for (std::size_t b = 0; b < codes.shape[0]; ++b)
    for (std::size_t t = 0; t < codes.shape[2]; ++t)
      if (codes(b, codes.shape[1] - 1, t) < 0) return false;
  return true;
}

}  // namespace detail

// -------------------------------------------------------------------------------------------------------- manifest

/// How far the search for codes goes: the paths that it follows after every stage; 0 are those of the bundle.
enum class Effort : std::size_t { live = 0, fast = 4, best = 8 };

constexpr std::size_t kMaxName = 64;  // bytes of a bundle's name in UTF-8

struct FileEntry {
  std::string file, sha256;
  std::size_t bytes = 0;
};

/// All facts about a bundle; lengths in samples. `runtime/docs/bundle.md` has the ranges.
struct Manifest {
  std::string name;
  std::size_t sample_rate = 0, frame_size = 0, latent_dim = 0;
  std::size_t codebook_size = 0, max_stages = 0;
  std::size_t encoder_state = 0, decoder_state = 0;
  std::size_t algorithmic_latency = 0;
  std::size_t channels = 1;
  std::size_t encoder_lookahead = 0, decoder_lookahead = 0;  // frames, samples
  std::size_t encoder_start = 1, decoder_start = 1;          // least frames of a first call
  std::size_t call_frames = 0;                               // of every call, 0 for any
  std::size_t max_paths = 0;
  Layout layout;
  std::string fingerprint;  // in hex: of the bundle that the graphs were made from; empty for their own
  std::optional<FileEntry> entropy;
  std::array<FileEntry, 4> graphs;  // encoder, quantizer_encode, quantizer_decode, decoder
  FileEntry golden;

  /// Read and check a manifest; throws an Error of kind bundle.
  static Manifest from_json(const std::string& text);

  double frame_rate() const { return static_cast<double>(sample_rate) / static_cast<double>(frame_size); }

  /// Bits that one code takes in a packet.
  std::size_t code_bits() const {
    std::size_t bits = 0;
    while ((codebook_size - 1) >> bits) ++bits;
    return bits;
  }
  /// Samples that the graphs of a stream hold back.
  std::size_t held() const {
    std::size_t first = std::max(encoder_start, decoder_start + encoder_lookahead) - 1;
    return std::max(ahead(), first * frame_size);
  }
  /// Samples to drop at the start of decoded audio.
  std::size_t delay() const { return algorithmic_latency - held(); }
  /// Samples by which the graphs of a stream that has begun hold back.
  std::size_t ahead() const { return encoder_lookahead * frame_size + decoder_lookahead; }
  /// Streams that code so many channels.
  std::size_t streams(std::size_t count) const { return detail::ceil_div(count, channels); }
  /// Code frames of a clip.
  std::size_t frames(std::size_t samples) const {
    return samples ? detail::ceil_div(samples + delay(), frame_size) : 0;
  }
  /// Payload in kbps.
  double bitrate(std::size_t stages) const {
    return frame_rate() * static_cast<double>(layout.codes(stages)) * std::log2(static_cast<double>(codebook_size)) /
           1000;
  }
  std::size_t paths(Effort effort) const { return std::min(static_cast<std::size_t>(effort), max_paths); }

  /// A stage count, checked.
  std::size_t stages(long long wanted) const {
    if (wanted < 1 || wanted > static_cast<long long>(max_stages))
      detail::fail(Error::Kind::bitrate, name, " has 1 to ", max_stages, " stages, not ", wanted);
    return static_cast<std::size_t>(wanted);
  }
  /// The stage count of a bitrate in kbps, within 2 %.
  std::size_t stages_of_bitrate(double kbps) const {
    std::size_t nearest = nearest_to(kbps);
    if (std::abs(bitrate(nearest) - kbps) <= 0.02 * bitrate(nearest)) return nearest;
    std::ostringstream possible;
    possible << std::setprecision(4);
    for (std::size_t n = 1; n <= max_stages; ++n) possible << (n > 1 ? ", " : "") << bitrate(n);
    detail::fail(Error::Kind::bitrate, name, " cannot do ", kbps, " kbps; possible: ", possible.str(), " kbps");
  }
  /// That of 6 kbps where it is possible, else all.
  std::size_t default_stages() const {
    std::size_t nearest = nearest_to(6.0);
    return std::abs(bitrate(nearest) - 6.0) <= 0.02 * bitrate(nearest) ? nearest : max_stages;
  }

  /// Throws unless codes are [streams, lines, frames], each in its range; nothing unchecked reaches a graph.
  void check_codes(const Codes& codes, std::optional<std::size_t> streams = std::nullopt) const;

 private:
  std::size_t nearest_to(double kbps) const {
    std::size_t nearest = 1;
    for (std::size_t n = 2; n <= max_stages; ++n)
      if (std::abs(bitrate(n) - kbps) < std::abs(bitrate(nearest) - kbps)) nearest = n;
    return nearest;
  }
  void check_contradictions() const;
};

namespace detail {

constexpr std::size_t kFormatVersion = 2;
constexpr std::size_t kManifestBytes = 1 << 20;
constexpr std::array<const char*, 4> kGraphs = {"encoder", "quantizer_encode", "quantizer_decode", "decoder"};

using Json = nlohmann::json;

/// What is wrong in a manifest, and where; keys may hold anything.
[[noreturn]] inline void refuse(const std::string& where, const std::string& what) {
  std::string text = where.empty() ? "the manifest: " + what : "the manifest's " + where + ": " + what;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
  fail_bundle(text.substr(0, 400));
}

inline const char* type_name(const Json& value) {
  if (value.is_number_integer()) return "int";
  if (value.is_number()) return "float";
  if (value.is_string()) return "str";
  if (value.is_boolean()) return "bool";
  if (value.is_array()) return "array";
  return value.is_object() ? "object" : "null";
}

inline void expect(bool fits, const char* wanted, const Json& value, const std::string& where) {
  if (!fits) refuse(where, std::string("Expected ") + wanted + ", got " + type_name(value));
}

inline std::size_t whole_number(const Json& value, std::uint64_t least, std::uint64_t most, const std::string& where) {
  expect(value.is_number_integer(), "int", value, where);
  bool negative = !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
  std::uint64_t number = negative ? 0 : value.get<std::uint64_t>();
  if (negative || number < least) refuse(where, "Expected int >= " + std::to_string(least));
  if (number > most) refuse(where, "Expected int <= " + std::to_string(most));
  return static_cast<std::size_t>(number);
}

/// The fields of one JSON object: all of `required`, perhaps some of `optional`, and no others.
class Fields {
 public:
  Fields(const Json& object, std::string where, std::initializer_list<const char*> required,
         std::initializer_list<const char*> optional = {})
      : object_(object), where_(std::move(where)) {
    expect(object.is_object(), "object", object, where_);
    auto is_among = [](const std::string& key, std::initializer_list<const char*> names) {
      return std::find(names.begin(), names.end(), key) != names.end();
    };
    for (const auto& item : object.items())
      if (!is_among(item.key(), required) && !is_among(item.key(), optional))
        refuse(where_, "Object contains unknown field " + item.key());
    for (const char* name : required)
      if (!has(name)) refuse(where_, std::string("Object missing required field ") + name);
  }

  bool has(const char* name) const { return object_.contains(name); }
  const Json& value(const char* name) const { return *object_.find(name); }
  std::string path(const char* name) const { return where_.empty() ? name : where_ + "." + name; }

  std::size_t number(const char* name, std::uint64_t least, std::uint64_t most) const {
    return whole_number(value(name), least, most, path(name));
  }
  std::size_t number_or(const char* name, std::uint64_t least, std::uint64_t most, std::size_t otherwise) const {
    return has(name) ? number(name, least, most) : otherwise;
  }
  std::string text(const char* name) const {
    expect(value(name).is_string(), "str", value(name), path(name));
    auto found = value(name).get<std::string>();
    auto letters = std::count_if(found.begin(), found.end(), [](char c) { return (c & 0xC0) != 0x80; });
    if (letters < 1) refuse(path(name), "Expected str of length >= 1");
    if (letters > 200) refuse(path(name), "Expected str of length <= 200");
    return found;
  }
  /// 16 hex digits, or none.
  std::string fingerprint(const char* name) const {
    if (!has(name)) return "";
    expect(value(name).is_string(), "str", value(name), path(name));
    auto found = value(name).get<std::string>();
    bool is_hex = found.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_hex || (!found.empty() && found.size() != 16))
      refuse(path(name), "Expected str matching regex '^([0-9a-f]{16})?$'");
    return found;
  }
  void expect_object(const char* name) const { expect(value(name).is_object(), "object", value(name), path(name)); }
  void expect_array(const char* name) const { expect(value(name).is_array(), "array", value(name), path(name)); }
  Fields object(const char* name, std::initializer_list<const char*> required,
                std::initializer_list<const char*> optional = {}) const {
    return Fields(value(name), path(name), required, optional);
  }
  FileEntry file(const char* name) const {
    Fields entry = object(name, {"file", "sha256", "bytes"});
    return FileEntry{entry.text("file"), entry.text("sha256"), entry.number("bytes", 1, 256u << 20)};
  }

 private:
  const Json& object_;
  std::string where_;
};

inline Json parse_json(const std::string& text) {
  if (text.compare(0, 3, "\xEF\xBB\xBF") == 0) refuse("", "JSON is malformed: invalid character (byte 0)");
  try {
    return Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
      if (depth > 900) refuse("", "maximum recursion depth exceeded");
      return true;
    });
  } catch (const Json::exception& error) {
    refuse("", one_line(error.what()));
  }
}

}  // namespace detail

inline Manifest Manifest::from_json(const std::string& text) {
  using detail::Fields;
  const detail::Json json = detail::parse_json(text);
  detail::expect(json.is_object(), "object", json, "");
  auto version_at = json.find("format_version");
  if (version_at == json.end()) detail::refuse("", "Object missing required field format_version");
  detail::expect(version_at->is_number_integer(), "int", *version_at, "format_version");
  if (version_at->is_number_unsigned() && version_at->get<std::uint64_t>() > detail::kFormatVersion)
    detail::fail_bundle("the bundle has format ", version_at->get<std::uint64_t>(), ", this edgecodec reads up to ",
                        detail::kFormatVersion, ": upgrade edgecodec");
  Fields all(
      json, "",
      {"name", "architecture", "sample_rate", "frame_size", "latent_dim", "quantizer", "state", "latency", "parameters",
       "macs_per_second", "opset", "precision", "graphs", "golden", "parity", "quality", "training", "tools"},
      {"format_version", "channels", "lookahead", "start_frames", "call_frames", "side", "stage_widths", "max_paths",
       "entropy", "fingerprint"});
  Manifest m;
  std::size_t version = all.number("format_version", 1, detail::kFormatVersion);
  m.name = all.text("name");
  std::string texts = m.name + all.text("architecture");
  m.sample_rate = all.number("sample_rate", 1000, 768000);
  m.frame_size = all.number("frame_size", 1, 1 << 16);
  m.latent_dim = all.number("latent_dim", 1, 1 << 16);
  Fields quantizer = all.object("quantizer", {"kind", "codebook_size", "max_stages"});
  texts += quantizer.text("kind");
  m.codebook_size = quantizer.number("codebook_size", 2, 65536);
  m.max_stages = quantizer.number("max_stages", 1, 128);
  Fields state = all.object("state", {"encoder", "decoder"});
  m.encoder_state = state.number("encoder", 0, 1 << 24);
  m.decoder_state = state.number("decoder", 0, 1 << 24);
  Fields latency = all.object("latency", {"buffering", "algorithmic"});
  latency.number("buffering", 1, 1 << 16);
  m.algorithmic_latency = latency.number("algorithmic", 0, 1 << 20);
  m.channels = all.number_or("channels", 1, 8, 1);
  if (all.has("lookahead")) {
    Fields ahead = all.object("lookahead", {}, {"encoder", "decoder"});
    m.encoder_lookahead = ahead.number_or("encoder", 0, 4096, 0);
    m.decoder_lookahead = ahead.number_or("decoder", 0, 1 << 20, 0);
  }
  if (all.has("start_frames")) {
    Fields start = all.object("start_frames", {}, {"encoder", "decoder"});
    m.encoder_start = start.number_or("encoder", 1, 4096, 1);
    m.decoder_start = start.number_or("decoder", 1, 4096, 1);
  }
  m.call_frames = all.number_or("call_frames", 0, 64, 0);
  m.layout.side = all.number_or("side", 0, 255, 0);
  if (all.has("stage_widths")) {
    all.expect_array("stage_widths");
    const detail::Json& widths = all.value("stage_widths");
    for (std::size_t i = 0; i < widths.size(); ++i)
      m.layout.widths.push_back(detail::whole_number(widths[i], 1, 4096, "stage_widths[" + std::to_string(i) + "]"));
  }
  m.max_paths = all.number_or("max_paths", 0, 64, 0);
  if (all.has("entropy") && !all.value("entropy").is_null()) {
    detail::expect(all.value("entropy").is_object(), "object | null", all.value("entropy"), "entropy");
    m.entropy = all.file("entropy");
  }
  m.fingerprint = all.fingerprint("fingerprint");
  for (const char* sizes : {"parameters", "macs_per_second"}) {
    Fields parts = all.object(sizes, {"encoder", "decoder", "quantizer"});
    for (const char* part : {"encoder", "decoder", "quantizer"}) parts.number(part, 0, std::uint64_t{1} << 50);
  }
  all.number("opset", 1, 1000);
  texts += all.text("precision");
  Fields graphs = all.object("graphs", {"encoder", "quantizer_encode", "quantizer_decode", "decoder"});
  for (std::size_t i = 0; i < 4; ++i) m.graphs[i] = graphs.file(detail::kGraphs[i]);
  m.golden = all.file("golden");
  for (const char* facts : {"parity", "training", "tools"}) all.expect_object(facts);
  all.expect_array("quality");
  if (!detail::is_printable(texts)) detail::fail_bundle("the manifest's texts: hold what cannot be printed");
  if (m.name.size() > kMaxName)
    detail::fail_bundle("the manifest's name: more than ", kMaxName, " bytes, which files cannot hold");
  m.check_contradictions();
  bool first_format = m.channels == 1 && !m.ahead() && m.encoder_start == 1 && m.decoder_start == 1 && !m.call_frames &&
                      !m.layout.side && m.layout.widths.empty() && !m.max_paths && !m.entropy && m.fingerprint.empty();
  if (version == 1 && !first_format)
    detail::fail_bundle("the manifest's format_version: 1, but it holds keys of format 2");
  return m;
}

inline void Manifest::check_contradictions() const {
  if (!layout.widths.empty() && layout.widths.size() != max_stages)
    detail::fail_bundle("the manifest's stage_widths: ", layout.widths.size(), " widths for ", max_stages, " stages");
  if (layout.lines(max_stages) > kMaxLines)
    detail::fail_bundle("the manifest's stage_widths: more than ", kMaxLines, " code lines a frame");
  if (encoder_start < encoder_lookahead + (encoder_lookahead ? 1 : 0) || decoder_start * frame_size < decoder_lookahead)
    detail::fail_bundle("the manifest's start_frames: a first call would hold no more than lookahead keeps back");
  if (call_frames && std::max(encoder_start, decoder_start) > call_frames)
    detail::fail_bundle("the manifest's start_frames: more than the one frame of every call");
  if (call_frames > 1 && ahead())
    detail::fail_bundle("the manifest's call_frames: more than one, of graphs that look ahead");
  if (algorithmic_latency < held())
    detail::fail_bundle("the manifest's latency.algorithmic: ", algorithmic_latency, ", but ", held(),
                        " samples are held back");
}

inline void Manifest::check_codes(const Codes& codes, std::optional<std::size_t> wanted) const {
  std::size_t found = codes.empty() || !codes.is_filled() ? 0 : layout.stages(codes.shape[1]);
  if (!found || found > max_stages)
    detail::fail_bitstream("codes must be [B, ", layout.is_plain() ? "n_stages" : "lines", ", T] with 1 to ",
                           max_stages, " stages, not of shape ", detail::listed(codes.shape));
  if (wanted && codes.shape[0] != *wanted)
    detail::fail_bitstream("codes of ", codes.shape[0], " streams, expected ", *wanted);
  auto entries = static_cast<std::int64_t>(codebook_size);
  bool missing = false;
  for (std::size_t b = 0; b < codes.shape[0]; ++b)
    for (std::size_t line = layout.side; line < codes.shape[1]; ++line)
      for (std::size_t t = 0; t < codes.shape[2]; ++t) {
        std::int64_t code = codes(b, line, t);
        if (code < kMissing || code >= entries) detail::fail_bitstream("codes must lie in 0..", entries - 1);
        missing = missing || code == kMissing;
      }
  if (missing && !layout.lacks_last_stages(codes))
    detail::fail_bitstream("-1 may only stand in the last stages of a frame, and not in all");
  for (std::size_t b = 0; b < codes.shape[0]; ++b)
    for (std::size_t line = 0; line < layout.side; ++line)
      for (std::size_t t = 0; t < codes.shape[2]; ++t)
        if (codes(b, line, t) < 0 || codes(b, line, t) >> kSideBits)
          detail::fail_bitstream("the first ", layout.side, " lines of codes must lie in 0..", (1 << kSideBits) - 1);
}

namespace detail {

// ----------------------------------------------------------------------------------------------------- range coder

constexpr std::uint32_t kFrequencyBits = 15, kTotal = 1u << kFrequencyBits;  // of the symbols of an alphabet
constexpr std::uint64_t kTop = std::uint64_t{1} << 32, kLeastRange = 1u << 24;

/// Rising sums of frequencies, from 0 to `kTotal`: one more than there are symbols.
using Table = std::vector<std::uint32_t>;

/// Turns symbols into bytes: `encode` and `mark` as often as needed, then `finish`.
class RangeEncoder {
 public:
  void encode(std::uint32_t start, std::uint32_t frequency) {
    std::uint64_t unit = range_ >> kFrequencyBits;
    low_ += unit * start;
    range_ = unit * frequency;
    if (low_ >= kTop) {
      low_ -= kTop;
      carry();
    }
    while (range_ < kLeastRange) {
      settled_.push_back(static_cast<std::uint8_t>(low_ >> 24));
      low_ = (low_ & 0xFFFFFF) << 8;
      range_ <<= 8;
    }
  }

  void encode(const Table& table, std::size_t symbol) { encode(table[symbol], table[symbol + 1] - table[symbol]); }

  /// Remember this place, to cut the bytes at.
  void mark() { marks_.push_back(settled_with(low_)); }

  /// The bytes, and for each mark how many of them tell all symbols before it.
  std::pair<Bytes, std::vector<std::size_t>> finish() {
    std::uint64_t number = low_;
    for (int bits = 24; bits >= 0; bits -= 8) {  // the fewest bytes whose number lies in the range
      number = ((low_ + (std::uint64_t{1} << bits) - 1) >> bits) << bits;
      if (number < low_ + range_) break;
    }
    if (number >= kTop) {
      number -= kTop;
      carry();
    }
    Bytes data = settled_with(number);
    drop_zeros(data);
    std::vector<std::size_t> ends;
    for (const Bytes& least : marks_) ends.push_back(length_to_reach(data, least));
    return {data, ends};
  }

 private:
  Bytes settled_;  // but for a carry
  std::uint64_t low_ = 0, range_ = kTop;
  std::vector<Bytes> marks_;  // the least number of the range at each mark

  Bytes settled_with(std::uint64_t number) const {
    Bytes data = settled_;
    for (int shift = 24; shift >= 0; shift -= 8) data.push_back(static_cast<std::uint8_t>(number >> shift));
    return data;
  }

  void carry() {
    std::size_t i = settled_.size();
    while (i > 0 && settled_[--i] == 0xFF) settled_[i] = 0;
    ++settled_[i];
  }

  static void drop_zeros(Bytes& data) {
    while (!data.empty() && !data.back()) data.pop_back();
  }

  /// The fewest first bytes of `data` that, zeros behind them, are not below `least`.
  static std::size_t length_to_reach(const Bytes& data, Bytes least) {
    std::size_t shorter = std::min(data.size(), least.size()), alike = 0;
    while (alike < shorter && data[alike] == least[alike]) ++alike;
    if (alike < shorter) return alike + 1;
    drop_zeros(least);
    return least.size();
  }
};

/// Turns the bytes of a `RangeEncoder` into its symbols. Any bytes give symbols: a checksum must vouch for them.
class RangeDecoder {
 public:
  explicit RangeDecoder(View data) : data_(data) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
  }

  /// Whether no byte is left.
  bool is_spent() const { return at_ >= data_.size; }

  std::size_t decode(const Table& table) {
    std::uint64_t unit = range_ >> kFrequencyBits;
    code_ = std::min(code_, range_);  // damaged bytes may lie beyond, and then the last symbol is told for ever
    auto value = static_cast<std::uint32_t>(std::min<std::uint64_t>(code_ / unit, kTotal - 1));
    auto symbol = static_cast<std::size_t>(std::upper_bound(table.begin(), table.end(), value) - table.begin()) - 1;
    code_ -= unit * table[symbol];
    range_ = unit * (table[symbol + 1] - table[symbol]);
    while (range_ < kLeastRange) {
      code_ = code_ << 8 | next();
      range_ <<= 8;
    }
    return symbol;
  }

 private:
  View data_;
  std::size_t at_ = 0;
  std::uint64_t code_ = 0, range_ = kTop;

  std::uint64_t next() {
    std::size_t at = at_++;
    return at < data_.size ? data_[at] : 0;
  }
};

// ---------------------------------------------------------------------------------------------------- entropy model

constexpr Fingerprint kNoModel{};  // in place of an entropy model's fingerprint
constexpr std::size_t kNpzArrayBytes = 64u << 20;

/// The table of whole logits, in sixteenths of an octave, of the first `alphabet` of them; the others get nothing.
inline void fill_table(const std::vector<std::int32_t>& logits, std::size_t alphabet, Table& table) {
  // 2 ** (16 - i / 16), rounded: weights of logits that are i below the largest; an octave below they are half.
  static const std::array<std::int64_t, 16> octave = {65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393,
                                                      46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219};
  auto end = logits.begin() + static_cast<std::ptrdiff_t>(alphabet);
  auto largest = std::max_element(logits.begin(), end);
  auto weight = [&](std::int32_t logit) {
    std::int32_t below = std::min(*largest - logit, 255);
    return octave[static_cast<std::size_t>(below % 16)] >> below / 16;
  };
  std::int64_t sum = 0;
  for (auto logit = logits.begin(); logit != end; ++logit) sum += weight(*logit);
  table.assign(logits.size() + 1, kTotal);
  table[0] = 0;
  // Of frequencies rounded down, what is short of the total goes to the first of the largest.
  std::int64_t total = 0, share = static_cast<std::int64_t>(kTotal - alphabet);
  for (std::size_t i = 0; i < alphabet; ++i) {
    total += 1 + weight(logits[i]) * share / sum;
    table[i + 1] = static_cast<std::uint32_t>(total);
  }
  auto lacking = static_cast<std::uint32_t>(kTotal - total);
  for (std::size_t i = static_cast<std::size_t>(largest - logits.begin()); i < alphabet; ++i) table[i + 1] += lacking;
}

inline void fill_even(std::size_t symbols, Table& table) {
  fill_table(std::vector<std::int32_t>(symbols, 0), symbols, table);
}

/// Frequencies of codes. This one knows nothing, and finds all codes of a stage equally likely.
class Predictor {
 public:
  std::size_t before = 0, after = 0;  // steps that a model looks back and ahead
  std::size_t following = 0;          // leading stages whose context holds their own codes at the steps before
  std::size_t width = 0;              // numbers of the vector of a code
  std::size_t entries;

  explicit Predictor(std::size_t entries_, std::size_t groups = 0) : entries(entries_) {
    std::size_t bits = 0;
    while ((entries - 1) >> bits) ++bits;
    groups = groups ? groups : std::size_t{1} << bits / 2;
    members_each_ = ceil_div(entries, groups);
    groups_used_ = ceil_div(entries, members_each_);
    fill_even(groups_used_, even_groups_);
  }
  Predictor(const Predictor&) = delete;
  Predictor& operator=(const Predictor&) = delete;
  virtual ~Predictor() = default;

  /// Whether codes are told by a model, so that they take fewer bytes than at their bits.
  virtual bool is_model() const { return false; }
  virtual void add_vector(std::size_t, std::size_t, std::int32_t*) const {}
  /// The place of an entry: group * members + member.
  virtual std::size_t place_of(std::size_t, std::size_t entry) const { return entry; }
  virtual std::size_t entry_at(std::size_t, std::size_t place) const { return place; }
  /// What both predictions begin with, of sums [(before + 1 + after) * width] within limits.
  virtual std::vector<std::int32_t> hidden(std::size_t, const std::vector<std::int32_t>&) const { return {}; }
  virtual void groups(std::size_t, const std::vector<std::int32_t>&, Table& table) const { table = even_groups_; }
  virtual void members(std::size_t, const std::vector<std::int32_t>&, std::size_t group, Table& table) const {
    fill_table(std::vector<std::int32_t>(members_each_, 0), members_of(group), table);
  }

  std::size_t members_each() const { return members_each_; }

 protected:
  std::size_t members_each_, groups_used_;
  Table even_groups_;

  /// Members of a group: the last one may hold fewer.
  std::size_t members_of(std::size_t group) const {
    return group + 1 < groups_used_ ? members_each_ : entries - (groups_used_ - 1) * members_each_;
  }
};

/// What a bundle's codes have taught: a small network in whole numbers, the same on every machine.
class EntropyModel : public Predictor {
 public:
  static std::shared_ptr<const EntropyModel> read(View data, std::size_t stages, std::size_t entries) {
    std::map<std::string, NpyArray> arrays;
    try {
      arrays = read_npz(data, kNpzArrayBytes, [](const std::string& name) { return types().count(name) > 0; });
    } catch (const Error& error) {
      fail_bundle(error.what());
    }
    Shapes shapes = check_shapes(arrays, stages, entries);
    auto model = std::make_shared<EntropyModel>(arrays, stages, entries, shapes);
    model->check_numbers();
    return model;
  }

  struct Shapes {
    std::size_t width, inputs, hidden, groups, members, query;
  };

  EntropyModel(const std::map<std::string, NpyArray>& arrays, std::size_t stages, std::size_t entries_, Shapes shapes)
      : Predictor(entries_, shapes.groups), stages_(stages), shapes_(shapes) {
    auto reach = arrays.at("reach").numbers<std::uint8_t>();
    before = reach[0], after = reach[1], following = reach[2], width = shapes.width;
    order_ = arrays.at("order").numbers<std::uint16_t>();
    vectors_ = arrays.at("vectors").numbers<std::int8_t>();
    hidden_ = layer(arrays, "hidden"), groups_ = layer(arrays, "group");
    query_ = layer(arrays, "query"), members_ = layer(arrays, "member");
  }

  bool is_model() const override { return true; }

  void add_vector(std::size_t stage, std::size_t entry, std::int32_t* sums) const override {
    const std::int8_t* vector = vectors_.data() + (stage * entries + entry) * width;
    for (std::size_t i = 0; i < width; ++i) sums[i] += vector[i];
  }
  std::size_t place_of(std::size_t stage, std::size_t entry) const override { return places_[stage * entries + entry]; }
  std::size_t entry_at(std::size_t stage, std::size_t place) const override { return order_[stage * entries + place]; }
  std::vector<std::int32_t> hidden(std::size_t stage, const std::vector<std::int32_t>& context) const override {
    return through(hidden_, stage, context, shapes_.hidden, 0, kHiddenLimit);
  }
  void groups(std::size_t stage, const std::vector<std::int32_t>& hidden, Table& table) const override {
    constexpr std::int32_t any = std::numeric_limits<std::int32_t>::max();
    fill_table(through(groups_, stage, hidden, shapes_.groups, -any, any), shapes_.groups, table);
  }
  void members(std::size_t stage, const std::vector<std::int32_t>& hidden, std::size_t group,
               Table& table) const override {
    auto query = through(query_, stage, hidden, shapes_.query, -kQueryLimit, kQueryLimit);
    std::size_t row = stage * shapes_.groups * members_each_ + group * members_each_;
    std::vector<std::int32_t> logits(members_each_);
    for (std::size_t k = 0; k < members_each_; ++k) {
      const std::int8_t* weight = members_.weight.data() + (row + k) * shapes_.query;
      std::int32_t sum = members_.bias[row + k];
      for (std::size_t r = 0; r < shapes_.query; ++r) sum += weight[r] * query[r];
      logits[k] = sum >> members_.shift[stage];
    }
    fill_table(logits, members_of(group), table);
  }

 private:
  static constexpr std::int32_t kContextLimit = 255, kHiddenLimit = 255, kQueryLimit = 127;
  static constexpr std::size_t kMaxReach = 8, kMaxAlphabet = 1024, kMaxShift = 24;

  /// Weights of at most 127, biases, and the shifts that follow, of every stage.
  struct Layer {
    std::vector<std::int8_t> weight;
    std::vector<std::int32_t> bias;
    std::vector<std::uint8_t> shift;
  };

  std::size_t stages_;
  Shapes shapes_;
  std::vector<std::uint16_t> order_, places_;  // [S, K], the entry at each place, and back
  std::vector<std::int8_t> vectors_;           // [S, K, E]
  Layer hidden_, groups_, query_, members_;

  static const std::map<std::string, std::string>& types() {
    static const std::map<std::string, std::string> made = [] {
      std::map<std::string, std::string> of = {{"reach", "|u1"}, {"order", "<u2"}, {"vectors", "|i1"}};
      for (const char* name : {"hidden", "group", "query", "member"}) {
        of[std::string(name) + "_weight"] = "|i1";
        of[std::string(name) + "_bias"] = "<i4";
        of[std::string(name) + "_shift"] = "|u1";
      }
      return of;
    }();
    return made;
  }

  static Layer layer(const std::map<std::string, NpyArray>& arrays, const std::string& name) {
    return {arrays.at(name + "_weight").numbers<std::int8_t>(), arrays.at(name + "_bias").numbers<std::int32_t>(),
            arrays.at(name + "_shift").numbers<std::uint8_t>()};
  }

  /// One layer of weights [S, in, out]. No sum reaches 2**24.
  static std::vector<std::int32_t> through(const Layer& layer, std::size_t stage, const std::vector<std::int32_t>& in,
                                           std::size_t out, std::int32_t least, std::int32_t most) {
    auto bias = layer.bias.begin() + static_cast<std::ptrdiff_t>(stage * out);
    std::vector<std::int32_t> sums(bias, bias + static_cast<std::ptrdiff_t>(out));
    const std::int8_t* weight = layer.weight.data() + stage * in.size() * out;
    for (std::int32_t number : in) {
      if (number)
        for (std::size_t j = 0; j < out; ++j) sums[j] += number * weight[j];
      weight += out;
    }
    for (std::int32_t& sum : sums) sum = std::clamp(sum >> layer.shift[stage], least, most);
    return sums;
  }

  static Shapes check_shapes(const std::map<std::string, NpyArray>& arrays, std::size_t stages, std::size_t entries) {
    for (const auto& [name, type] : types()) {
      auto found = arrays.find(name);
      if (found == arrays.end()) fail_bundle(name, " is missing");
      if (found->second.type != type) fail_bundle(name, " is ", found->second.type, ", not ", type);
    }
    auto shape = [&](const std::string& name) { return arrays.at(name).shape; };
    const Bytes& reach = arrays.at("reach").data;
    if (shape("reach") != std::vector<std::size_t>{3} || *std::max_element(reach.begin(), reach.end()) > kMaxReach ||
        reach[2] > stages)
      fail_bundle("reach is ", listed(reach));
    if (shape("vectors").size() != 3 || shape("hidden_weight").size() != 3 || shape("query_weight").size() != 3)
      fail_bundle("vectors and weights must have three dimensions");
    Shapes s{};
    s.width = shape("vectors")[2];
    s.hidden = shape("query_weight")[1], s.query = shape("query_weight")[2];
    s.groups = shape("group_bias").empty() ? 0 : shape("group_bias").back();
    s.members = ceil_div(entries, std::max<std::size_t>(s.groups, 1));
    s.inputs = (1 + std::size_t{reach[0]} + reach[1]) * s.width;
    const std::map<std::string, std::vector<std::size_t>> shapes = {
        {"order", {stages, entries}},
        {"vectors", {stages, entries, s.width}},
        {"hidden_weight", {stages, s.inputs, s.hidden}},
        {"group_weight", {stages, s.hidden, s.groups}},
        {"query_weight", {stages, s.hidden, s.query}},
        {"member_weight", {stages, s.groups * s.members, s.query}},
        {"hidden_bias", {stages, s.hidden}},
        {"group_bias", {stages, s.groups}},
        {"query_bias", {stages, s.query}},
        {"member_bias", {stages, s.groups * s.members}},
        {"hidden_shift", {stages}},
        {"group_shift", {stages}},
        {"query_shift", {stages}},
        {"member_shift", {stages}},
    };
    for (const auto& [name, expected] : shapes)
      if (shape(name) != expected) fail_bundle(name, " is ", listed(shape(name)), ", expected ", listed(expected));
    if (s.groups < 1 || s.groups > kMaxAlphabet || s.members < 1 || s.members > kMaxAlphabet ||
        (s.groups - 1) * s.members >= entries)
      fail_bundle(s.groups, " groups do not hold ", entries, " entries");
    return s;
  }

  /// Refuse numbers whose sums could leave what is exact, and make the way back from entries to places.
  void check_numbers() {
    const std::array<std::pair<const char*, const Layer*>, 4> layers = {
        {{"hidden", &hidden_}, {"group", &groups_}, {"query", &query_}, {"member", &members_}}};
    for (const auto& [name, layer] : layers)
      for (std::uint8_t shift : layer->shift)
        if (shift > kMaxShift) fail_bundle(name, "_shift is more than ", kMaxShift);
    places_.assign(order_.size(), 0);
    for (std::size_t stage = 0; stage < stages_; ++stage) {
      std::vector<bool> seen(entries);
      for (std::size_t place = 0; place < entries; ++place) {
        std::size_t entry = entry_at(stage, place);
        if (entry >= entries || seen[entry]) fail_bundle("order names an entry twice");
        seen[entry] = true;
        places_[stage * entries + entry] = static_cast<std::uint16_t>(place);
      }
    }
    check_sums("hidden", hidden_, shapes_.inputs, shapes_.hidden, kContextLimit);
    check_sums("group", groups_, shapes_.hidden, shapes_.groups, kHiddenLimit);
    check_sums("query", query_, shapes_.hidden, shapes_.query, kHiddenLimit);
    for (std::size_t row = 0; row < members_.bias.size(); ++row) {
      std::int64_t most = 0;
      for (std::size_t r = 0; r < shapes_.query; ++r) most += std::abs(members_.weight[row * shapes_.query + r]);
      check_sum("member", most * kQueryLimit, members_.bias[row]);
    }
  }

  void check_sums(const char* name, const Layer& layer, std::size_t in, std::size_t out, std::int64_t limit) const {
    for (std::size_t stage = 0; stage < stages_; ++stage)
      for (std::size_t j = 0; j < out; ++j) {
        std::int64_t most = 0;
        for (std::size_t i = 0; i < in; ++i) most += std::abs(layer.weight[(stage * in + i) * out + j]);
        check_sum(name, most * limit, layer.bias[stage * out + j]);
      }
  }

  static void check_sum(const char* name, std::int64_t most, std::int64_t bias) {
    if (most + std::abs(bias) >= 1 << 24) fail_bundle(name, ": sums may reach 2**24");
  }
};

// ------------------------------------------------------------------------------------------------------- code coder

/// The sums of the vectors of all codes so far, and what the model sees of them at a step. Zeros lie past the ends.
class Context {
 public:
  Context(const Predictor& model, std::size_t rows) : model_(model), rows_(rows) {}

  /// Go on to a stage of so many steps: as many as the one before had, or a multiple.
  void begin(std::size_t steps) {
    if (!model_.width) return;
    const Predictor& m = model_;
    std::size_t padded = m.before + steps + m.after, times = steps_ ? steps / steps_ : 0;
    std::vector<std::int32_t> sums(rows_ * padded * m.width);
    for (std::size_t row = 0; times && row < rows_; ++row)
      for (std::size_t step = 0; step < steps; ++step)
        std::copy_n(with_.data() + at(row, m.before + step / times), m.width,
                    sums.data() + (row * padded + m.before + step) * m.width);
    steps_ = steps;
    before_ = with_ = std::move(sums);
  }

  /// A code of the stage at hand.
  void add(std::size_t stage, std::size_t row, std::size_t step, std::size_t entry) {
    if (model_.width) model_.add_vector(stage, entry, with_.data() + at(row, model_.before + step));
  }

  /// What the model sees at a step: [(before + 1 + after) * width].
  std::vector<std::int32_t> seen(std::size_t stage, std::size_t row, std::size_t step) const {
    if (!model_.width) return {};
    const Predictor& m = model_;
    const auto& past = stage < m.following ? with_ : before_;
    std::vector<std::int32_t> context((m.before + 1 + m.after) * m.width);
    std::copy_n(past.data() + at(row, step), m.before * m.width, context.data());
    std::copy_n(before_.data() + at(row, step + m.before), (1 + m.after) * m.width,
                context.data() + m.before * m.width);
    for (std::int32_t& sum : context) sum = std::clamp(sum, -255, 255);
    return context;
  }

 private:
  const Predictor& model_;
  std::size_t rows_, steps_ = 0;
  std::vector<std::int32_t> before_, with_;  // of the stages before the one at hand, and with it

  std::size_t at(std::size_t row, std::size_t padded_step) const {
    return (row * (model_.before + steps_ + model_.after) + padded_step) * model_.width;
  }
};

using Counts = Array3<std::size_t>;  // stage counts [1, streams, frames]

inline Table even_table(std::size_t symbols) {
  Table table;
  fill_even(symbols, table);
  return table;
}

/// The tables of a frame's count, after each count of the frame before: likelier the nearer it is to that.
inline std::vector<Table> count_tables(std::size_t most) {
  std::vector<Table> tables(most);
  for (std::size_t before = 0; before < most; ++before) {
    std::vector<std::int32_t> logits;
    for (std::size_t count = 0; count < most; ++count)
      logits.push_back(-16 * static_cast<std::int32_t>(count > before ? count - before : before - count));
    fill_table(logits, most, tables[before]);
  }
  return tables;
}

inline void encode_counts(RangeEncoder& coder, const Counts& counts, std::size_t most) {
  auto tables = count_tables(most);
  for (std::size_t row = 0; row < counts.shape[1]; ++row) {
    std::size_t last = most;
    for (std::size_t t = 0; t < counts.shape[2]; ++t) {
      coder.encode(tables[last - 1], counts(0, row, t) - 1);
      last = counts(0, row, t);
    }
  }
}

inline Counts decode_counts(RangeDecoder& coder, std::size_t streams, std::size_t frames, std::size_t most) {
  auto tables = count_tables(most);
  Counts counts(1, streams, frames);
  for (std::size_t row = 0; row < streams; ++row) {
    std::size_t last = most;
    for (std::size_t t = 0; t < frames; ++t) counts(0, row, t) = last = coder.decode(tables[last - 1]) + 1;
  }
  return counts;
}

/// Bytes, and how many of them each stage ends at.
struct Coded {
  Bytes data;
  std::vector<std::size_t> ends;
};

}  // namespace detail

/// Codes [streams, lines, frames] of one bundle's layout to bytes by a range coder, led by an entropy model or by none.
class CodeCoder {
 public:
  Layout layout;
  std::shared_ptr<const detail::Predictor> model;
  std::size_t streams;

  CodeCoder(Layout layout_, std::shared_ptr<const detail::Predictor> model_, std::size_t streams_)
      : layout(std::move(layout_)), model(std::move(model_)), streams(streams_) {}

  /// Bytes of codes of which some frame has all stages; counts are told as numbers of 1 to `most`.
  detail::Coded encode(const Codes& codes, std::size_t most = 0) const {
    detail::RangeEncoder coder;
    auto counts = layout.counts(codes);
    std::size_t stages = *std::max_element(counts.values.begin(), counts.values.end());
    if (*std::min_element(counts.values.begin(), counts.values.end()) < stages)
      detail::encode_counts(coder, counts, most ? most : stages);
    tell(coder, codes);
    auto [data, ends] = coder.finish();
    return {std::move(data), std::move(ends)};
  }

  /// Codes without their counts; the ends of stages that some frame has are marked.
  void tell(detail::RangeEncoder& coder, const Codes& codes) const {
    for (std::size_t row = 0; row < codes.shape[0]; ++row)
      for (std::size_t line = 0; line < layout.side; ++line)
        for (std::size_t t = 0; t < codes.shape[2]; ++t)
          coder.encode(static_cast<std::uint32_t>(codes(row, line, t)) * kSideFrequency, kSideFrequency);
    each_told(
        codes,
        [&](const std::vector<Told>& told) {
          for (const Told& one : told) coder.encode(one.group[0], one.group[1]);
          for (const Told& one : told) coder.encode(one.member[0], one.member[1]);
        },
        [&] { coder.mark(); });
  }

  /// How each code is told, stage by stage, stream by stream: start and frequency of group and member.
  std::vector<std::array<std::int32_t, 4>> intervals(const Codes& codes) const {
    std::vector<std::array<std::int32_t, 4>> found;
    auto keep = [&](const std::vector<Told>& told) {
      for (const Told& one : told)
        found.push_back({static_cast<std::int32_t>(one.group[0]), static_cast<std::int32_t>(one.group[1]),
                         static_cast<std::int32_t>(one.member[0]), static_cast<std::int32_t>(one.member[1])});
    };
    each_told(
        codes, keep, [] {}, /*by_step=*/false);
    return found;
  }

  /// What each frame's codes of each stage take, [streams, stages, frames]; 0 where there are none.
  Array3<double> bits(const Codes& codes) const {
    Array3<double> found(codes.shape[0], layout.stages(codes.shape[1]), codes.shape[2]);
    auto counts = layout.counts(codes);
    std::size_t stage = 0;
    auto add = [&](const std::vector<Told>& told) {
      std::vector<Place> places = runs(counts, stage, false)[0];
      for (std::size_t i = 0; i < told.size(); ++i) {
        std::uint64_t likely = std::uint64_t{told[i].group[1]} * told[i].member[1];
        double taken = 2 * detail::kFrequencyBits - std::log2(static_cast<double>(likely));
        found(places[i].row, stage, places[i].step / layout.width(stage)) += taken;
      }
    };
    each_told(
        codes, add, [&] { ++stage; }, /*by_step=*/false);
    return found;
  }

  /// The codes of bytes that `encode` made; of stages cut off, nothing remains. Any bytes give codes in range.
  Codes decode(View body, std::size_t stages, std::size_t frames, bool mixed, std::size_t most = 0) const {
    detail::RangeDecoder coder(body);
    detail::Counts counts(1, streams, frames, stages);
    if (mixed) {
      counts = detail::decode_counts(coder, streams, frames, most ? most : stages);
      for (std::size_t& count : counts.values) count = std::min(count, stages);
    }
    return read(coder, counts, stages);
  }

  /// The codes that `tell` told, of known counts.
  Codes read(detail::RangeDecoder& coder, const detail::Counts& counts, std::size_t stages) const {
    std::size_t rows = counts.shape[1], frames = counts.shape[2];
    Codes codes(rows, layout.lines(stages), frames, kMissing);
    const detail::Table side = detail::even_table(1 << kSideBits);
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t line = 0; line < layout.side; ++line)
        for (std::size_t t = 0; t < frames; ++t) codes(row, line, t) = static_cast<std::int64_t>(coder.decode(side));
    detail::Context context(*model, rows);
    for (std::size_t stage = 0; stage < stages; ++stage) {
      std::size_t width = layout.width(stage);
      context.begin(width * frames);
      for (const auto& places : runs(counts, stage, /*by_step=*/true)) {
        std::vector<std::vector<std::int32_t>> hidden;
        std::vector<std::size_t> groups;
        detail::Table table;
        for (const Place& p : places) {
          hidden.push_back(model->hidden(stage, context.seen(stage, p.row, p.step)));
          model->groups(stage, hidden.back(), table);
          groups.push_back(coder.decode(table));
        }
        for (std::size_t i = 0; i < places.size(); ++i) {
          const Place& p = places[i];
          model->members(stage, hidden[i], groups[i], table);
          std::size_t entry = model->entry_at(stage, groups[i] * model->members_each() + coder.decode(table));
          codes(p.row, layout.lines(stage) + p.step % width, p.step / width) = static_cast<std::int64_t>(entry);
          context.add(stage, p.row, p.step, entry);
        }
      }
    }
    return codes;
  }

 private:
  static constexpr std::uint32_t kSideFrequency = detail::kTotal >> kSideBits;

  struct Place {
    std::size_t row, step;
  };
  struct Told {
    std::array<std::uint32_t, 2> group, member;  // start and frequency
  };

  /// The places of a stage's codes, as they are told: all together, or step by step where the stage follows itself.
  std::vector<std::vector<Place>> runs(const detail::Counts& counts, std::size_t stage, bool by_step) const {
    std::size_t width = layout.width(stage), rows = counts.shape[1], steps = counts.shape[2] * width;
    std::vector<std::vector<Place>> found(1);
    if (by_step && stage < model->following) {
      found.resize(steps);
      for (std::size_t step = 0; step < steps; ++step)
        for (std::size_t row = 0; row < rows; ++row)
          if (counts(0, row, step / width) > stage) found[step].push_back({row, step});
    } else {
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t step = 0; step < steps; ++step)
          if (counts(0, row, step / width) > stage) found[0].push_back({row, step});
    }
    return found;
  }

  /// Hands over how the codes of each run are told, and says where a stage ends that some frame has.
  template <class Take, class End>
  void each_told(const Codes& codes, Take take, End end, bool by_step = true) const {
    auto counts = layout.counts(codes);
    std::size_t stages = counts.empty() ? 0 : *std::max_element(counts.values.begin(), counts.values.end());
    detail::Context context(*model, codes.shape[0]);
    detail::Table table;
    for (std::size_t stage = 0; stage < stages; ++stage) {
      std::size_t width = layout.width(stage);
      auto entry_of = [&](const Place& p) {
        return static_cast<std::size_t>(codes(p.row, layout.lines(stage) + p.step % width, p.step / width));
      };
      context.begin(width * codes.shape[2]);
      auto all = runs(counts, stage, by_step);
      for (const auto& places : all)
        for (const Place& p : places) context.add(stage, p.row, p.step, entry_of(p));
      for (const auto& places : all) {
        std::vector<Told> told;
        for (const Place& p : places) {
          std::size_t place = model->place_of(stage, entry_of(p));
          std::size_t group = place / model->members_each(), member = place % model->members_each();
          auto hidden = model->hidden(stage, context.seen(stage, p.row, p.step));
          Told one;
          model->groups(stage, hidden, table);
          one.group = {table[group], table[group + 1] - table[group]};
          model->members(stage, hidden, group, table);
          one.member = {table[member], table[member + 1] - table[member]};
          told.push_back(one);
        }
        take(told);
      }
      end();
    }
  }
};

// --------------------------------------------------------------------------------------------------------- packets

constexpr std::size_t kMaxFrames = 255;  // in a packet

/// Codes of a few frames. `sequence` counts packets modulo 65,536; `previous` repeats the first stages of the packet
/// before.
struct Packet {
  std::uint16_t sequence = 0;
  Codes codes;
  std::optional<Codes> previous;
  Layout layout;

  std::size_t stages() const { return layout.stages(codes.shape[1]); }
  std::size_t frames() const { return codes.shape[2]; }
  std::size_t repeated_stages() const { return previous ? layout.stages(previous->shape[1]) : 0; }

  /// The same packet with its first stages; one that has no more is left as it is.
  Packet truncate(std::size_t kept) const {
    if (kept < 1) detail::fail_bitstream("a packet needs at least 1 stage, not ", kept);
    Packet cut = *this;
    if (kept < stages()) cut.codes = codes.part(1, 0, layout.lines(kept));
    return cut;
  }
};

namespace detail {

inline std::size_t packed_size(std::size_t count, std::size_t bits) { return (count * bits + 7) / 8; }

/// Codes of one packet in few bytes, led by an entropy model that looks at nothing outside the packet.
class PacketCoder {
 public:
  PacketCoder(CodeCoder coder, std::size_t stages) : coder_(std::move(coder)), stages_(stages) {}

  bool has_model() const { return coder_.model->is_model(); }

  Bytes encode(const Codes& codes, const std::optional<Codes>& previous) const {
    const Layout& layout = coder_.layout;
    check(codes);
    if (previous) check(*previous);
    RangeEncoder coder;
    Counts counts = layout.counts(codes);
    std::size_t most = *std::max_element(counts.values.begin(), counts.values.end());
    coder.encode(even_table(stages_), most - 1);
    tell_counts(coder, counts, most);
    std::size_t lines = layout.lines(most);
    if (previous) {
      tell_counts(coder, layout.counts(*previous), layout.stages(previous->shape[1]));
      lines = std::max(lines, previous->shape[1]);
    }
    Codes all = previous ? padded(*previous, lines) : Codes();
    all.append(2, padded(codes.part(1, 0, layout.lines(most)), lines));
    coder_.tell(coder, all);
    return coder.finish().first;
  }

  std::pair<Codes, std::optional<Codes>> decode(View body, std::size_t frames, std::size_t repeated_stages,
                                                std::size_t repeated_frames) const {
    if (repeated_stages > stages_) fail_bitstream("a packet repeats more stages than there are");
    RangeDecoder coder(body);
    std::size_t most = coder.decode(even_table(stages_)) + 1;
    Counts counts = read_counts(coder, frames, most);
    if (repeated_stages) {
      Counts before = read_counts(coder, repeated_frames, repeated_stages);
      before.append(2, counts);
      counts = before;
    }
    Codes codes = coder_.read(coder, counts, std::max(most, repeated_stages));
    if (!coder.is_spent()) fail_bitstream("damaged packet");
    const Layout& layout = coder_.layout;
    Codes own = codes.part(1, 0, layout.lines(most)).part(2, codes.shape[2] - frames, codes.shape[2]);
    std::optional<Codes> previous;
    if (repeated_stages) previous = codes.part(1, 0, layout.lines(repeated_stages)).part(2, 0, repeated_frames);
    return {std::move(own), std::move(previous)};
  }

 private:
  CodeCoder coder_;
  std::size_t stages_;

  static Codes padded(const Codes& codes, std::size_t lines) {
    Codes made = codes;
    made.append(1, Codes(codes.shape[0], lines - codes.shape[1], codes.shape[2], kMissing));
    return made;
  }

  static void tell_counts(RangeEncoder& coder, const Counts& counts, std::size_t most) {
    bool differ = *std::min_element(counts.values.begin(), counts.values.end()) < most;
    coder.encode(even_table(2), differ);
    if (differ) encode_counts(coder, counts, most);
  }

  Counts read_counts(RangeDecoder& coder, std::size_t frames, std::size_t most) const {
    if (coder.decode(even_table(2))) return decode_counts(coder, coder_.streams, frames, most);
    return Counts(1, coder_.streams, frames, most);
  }

  void check(const Codes& codes) const {
    const Layout& layout = coder_.layout;
    std::size_t stages = layout.stages(codes.shape[1]);
    if (codes.shape[0] != coder_.streams || stages < 1 || stages > stages_ || codes.shape[2] < 1 ||
        codes.shape[2] > kMaxFrames)
      fail_bitstream("codes ", listed(codes.shape), " do not fit packets of ", coder_.streams, " streams");
    auto entries = static_cast<std::int64_t>(coder_.model->entries);
    for (std::size_t row = 0; row < codes.shape[0]; ++row)
      for (std::size_t line = 0; line < codes.shape[1]; ++line)
        for (std::size_t t = 0; t < codes.shape[2]; ++t) {
          std::int64_t code = codes(row, line, t);
          if (line < layout.side ? code < 0 || code >> kSideBits : code < kMissing || code >= entries)
            fail_bitstream(line < layout.side ? "a number beside the stages does not fit into 8 bits"
                                              : "codes must lie in 0.." + std::to_string(entries - 1));
        }
    Counts counts = layout.counts(codes);
    if (std::find(counts.values.begin(), counts.values.end(), 0u) != counts.values.end())
      fail_bitstream("a frame has at least 1 stage");
    if (!layout.lacks_last_stages(codes)) fail_bitstream("-1 may only stand in the last stages of a frame");
  }
};

}  // namespace detail

/// How packets look as bytes: what both ends must know beforehand. `Codec::packet_format` makes one.
class PacketFormat {
 public:
  PacketFormat(std::size_t streams, std::size_t code_bits, Layout layout = {},
               std::shared_ptr<const detail::PacketCoder> coder = nullptr)
      : streams_(streams), code_bits_(code_bits), layout_(std::move(layout)), coder_(std::move(coder)) {
    if (streams < 1 || streams > 255 || code_bits < 1 || code_bits > 16)
      detail::fail_bitstream("no packet has ", streams, " streams and codes of ", code_bits, " bits");
  }

  std::size_t streams() const { return streams_; }

  /// Bytes of payload, without an entropy model.
  std::size_t payload_size(std::size_t stages, std::size_t frames) const {
    return side_bytes(frames) + detail::packed_size(count(stages, frames), code_bits_);
  }
  /// Bytes of a packet that repeats nothing.
  std::size_t size(std::size_t stages, std::size_t frames) const { return kHead + payload_size(stages, frames) + 2; }

  /// A packet as bytes; throws where its codes do not fit.
  Bytes to_bytes(const Packet& packet) const {
    if (!packet.codes.is_filled() || (packet.previous && !packet.previous->is_filled()))
      detail::fail_bitstream("codes ", detail::listed(packet.codes.shape), " are fewer or more than their shape says");
    Bytes data;
    if (auto body = coded(packet)) {
      data = {static_cast<std::uint8_t>(packet.previous ? 'D' : 'C'), static_cast<std::uint8_t>(packet.frames())};
      detail::put_number(data, packet.sequence, 2);
      put_repetition(data, packet);
      detail::put_bytes(data, *body);
    } else {
      data = {static_cast<std::uint8_t>(packet.previous ? 'R' : 'P'), static_cast<std::uint8_t>(packet.stages()),
              static_cast<std::uint8_t>(packet.frames())};
      detail::put_number(data, packet.sequence, 2);
      put_repetition(data, packet);
      if (packet.previous) detail::put_bytes(data, pack(*packet.previous));
      detail::put_bytes(data, pack(packet.codes));
    }
    detail::seal(data);
    return data;
  }

  /// A packet of its bytes; throws for bytes that are damaged or no packet of this format.
  Packet from_bytes(View data) const {
    if (is_coded(data)) return from_coded(data);
    Head h = head(data);
    Packet packet{h.sequence, {}, std::nullopt, layout_};
    if (h.previous_frames)
      packet.previous = unpack(data.part(kHead + 2, h.begin), h.previous_stages, h.previous_frames);
    packet.codes = unpack(data.part(h.begin, data.size - 2), h.stages, h.frames);
    return packet;
  }

  /// A packet's bytes with its first stages: bytes are cut off. Those of a coded packet are coded anew.
  Bytes truncate(View data, std::size_t stages) const {
    if (stages < 1) detail::fail_bitstream("a packet needs at least 1 stage, not ", stages);
    if (is_coded(data)) return to_bytes(from_coded(data).truncate(stages));
    Head h = head(data);
    if (stages >= h.stages) return data.copy();
    Bytes cut = {data[0], static_cast<std::uint8_t>(stages), static_cast<std::uint8_t>(h.frames)};
    detail::put_number(cut, h.sequence, 2);
    std::size_t begin = h.begin + side_bytes(h.frames), kept = count(stages, h.frames);
    detail::put_bytes(cut, data.part(kHead, begin + detail::packed_size(kept, code_bits_)));
    if (std::size_t unused = (8 - kept * code_bits_ % 8) % 8) cut.back() &= static_cast<std::uint8_t>(0xFF << unused);
    detail::seal(cut);
    return cut;
  }

  /// The payload of codes [streams, lines, frames].
  Bytes pack(const Codes& codes) const {
    std::size_t stages = layout_.stages(codes.shape[1]), frames = codes.shape[2];
    if (codes.shape[0] != streams_ || stages < 1 || stages > 255 || frames < 1 || frames > kMaxFrames)
      detail::fail_bitstream("codes ", detail::listed(codes.shape), " do not fit packets of ", streams_, " streams");
    Bytes data;
    std::uint64_t joined = 0;
    std::size_t held = 0;
    for (std::size_t line = 0; line < codes.shape[1]; ++line)
      for (std::size_t row = 0; row < streams_; ++row)
        for (std::size_t t = 0; t < frames; ++t) {
          std::int64_t code = codes(row, line, t);
          std::size_t bits = line < layout_.side ? kSideBits : code_bits_;
          if (code < 0 || code >> bits) detail::fail_bitstream("a code does not fit into ", code_bits_, " bits");
          joined = joined << bits | static_cast<std::uint64_t>(code);
          for (held += bits; held >= 8; held -= 8) data.push_back(static_cast<std::uint8_t>(joined >> (held - 8)));
        }
    if (held) data.push_back(static_cast<std::uint8_t>(joined << (8 - held)));
    return data;
  }

  /// The codes of a payload, which must hold them.
  Codes unpack(View payload, std::size_t stages, std::size_t frames) const {
    Codes codes(streams_, layout_.lines(stages), frames);
    std::uint64_t joined = 0;
    std::size_t held = 0, at = 0;
    for (std::size_t line = 0; line < codes.shape[1]; ++line)
      for (std::size_t row = 0; row < streams_; ++row)
        for (std::size_t t = 0; t < frames; ++t) {
          std::size_t bits = line < layout_.side ? kSideBits : code_bits_;
          for (; held < bits; held += 8) joined = joined << 8 | payload[at++];
          held -= bits;
          codes(row, line, t) = static_cast<std::int64_t>(joined >> held & ((std::uint64_t{1} << bits) - 1));
        }
    return codes;
  }

 private:
  static constexpr std::size_t kHead = 5, kCodedHead = 4;
  static constexpr std::size_t kLeastCoded = 4;  // frames: of fewer, coding saves next to nothing

  struct Head {
    std::size_t stages, frames;
    std::uint16_t sequence;
    std::size_t previous_stages, previous_frames, begin;  // of the packet's own payload
  };

  std::size_t streams_, code_bits_;
  Layout layout_;
  std::shared_ptr<const detail::PacketCoder> coder_;

  std::size_t side_bytes(std::size_t frames) const { return layout_.side * streams_ * frames; }
  std::size_t count(std::size_t stages, std::size_t frames) const { return layout_.codes(stages) * streams_ * frames; }
  static bool is_coded(View data) { return data.size && (data[0] == 'C' || data[0] == 'D'); }

  static void put_repetition(Bytes& data, const Packet& packet) {
    if (!packet.previous) return;
    data.push_back(static_cast<std::uint8_t>(packet.repeated_stages()));
    data.push_back(static_cast<std::uint8_t>(packet.previous->shape[2]));
  }

  /// The coded payload of a packet, that of what it repeats included; nothing where it does not pay.
  std::optional<Bytes> coded(const Packet& packet) const {
    if (!coder_ || packet.codes.empty() || (packet.previous && packet.previous->empty())) return std::nullopt;
    bool whole = detail::is_whole(packet.codes) && (!packet.previous || detail::is_whole(*packet.previous));
    std::size_t frames = packet.frames() + (packet.previous ? packet.previous->shape[2] : 0);
    if (whole && (frames < kLeastCoded || !coder_->has_model())) return std::nullopt;
    Bytes body = coder_->encode(packet.codes, packet.previous);
    std::size_t plain = payload_size(packet.stages(), packet.frames());
    if (packet.previous) plain += payload_size(packet.repeated_stages(), packet.previous->shape[2]);
    if (whole && body.size() >= plain) return std::nullopt;
    return body;
  }

  Packet from_coded(View data) const {
    if (!coder_) detail::fail_bitstream("a packet that is coded; what reads it must know the codec");
    bool repeats = data[0] == 'D';
    std::size_t begin = kCodedHead + (repeats ? 2 : 0);
    if (data.size < begin + 2 || !detail::is_sound(data)) detail::fail_bitstream("damaged packet");
    std::size_t frames = data[1], stages_before = repeats ? data[4] : 0, frames_before = repeats ? data[5] : 0;
    if (!frames || (repeats && !(stages_before && frames_before))) detail::fail_bitstream("damaged packet");
    auto [codes, previous] = coder_->decode(data.part(begin, data.size - 2), frames, stages_before, frames_before);
    return Packet{static_cast<std::uint16_t>(detail::number_at(data, 2, 2)), std::move(codes), std::move(previous),
                  layout_};
  }

  /// The head of bytes that are exactly one whole packet.
  Head head(View data) const {
    if (data.size < kHead || (data[0] != 'P' && data[0] != 'R')) detail::fail_bitstream("not a packet");
    Head h{data[1], data[2], static_cast<std::uint16_t>(detail::number_at(data, 3, 2)), 0, 0, kHead};
    if (data[0] == 'R') {
      if (data.size < kHead + 2 || !data[5] || !data[6]) detail::fail_bitstream("damaged packet");
      h.previous_stages = data[5], h.previous_frames = data[6];
      h.begin += 2 + payload_size(h.previous_stages, h.previous_frames);
    }
    if (!h.stages || !h.frames || data.size != h.begin + payload_size(h.stages, h.frames) + 2 ||
        !detail::is_sound(data))
      detail::fail_bitstream("damaged packet");
    return h;
  }
};

// ------------------------------------------------------------------------------------------------ .edgc: the header

constexpr std::size_t kEdgcVersion = 2;
constexpr std::size_t kMaxGain = 60;         // dB
constexpr std::size_t kMaxPacket = 1 << 20;  // bytes of payload

namespace detail {

/// Numbers of bytes, little-endian, one after another.
class Cursor {
 public:
  explicit Cursor(View data, std::size_t at = 0) : data_(data), at_(at) {}
  std::size_t number(std::size_t size) {
    at_ += size;
    return static_cast<std::size_t>(number_at(data_, at_ - size, size));
  }
  View bytes(std::size_t size) {
    at_ += size;
    return data_.part(at_ - size, at_);
  }

 private:
  View data_;
  std::size_t at_;
};

inline Fingerprint fingerprint_at(View data) {
  Fingerprint found{};
  std::copy_n(data.begin(), found.size(), found.begin());
  return found;
}

// -------------------------------------------------------------------------------------------------- .edgc: chunks

/// Codes of about a second, still coded; each chunk can be read without the others.
struct Chunk {
  std::uint16_t sequence = 0;
  std::size_t frames = 0, stages = 0;  // the most stages that a frame has
  std::vector<std::size_t> sizes;      // bytes of the body up to the first cut, from each to the next, to the end
  Bytes body;
  bool told = false, mixed = false;  // by the entropy model; frames have different stage counts
};

/// Stage counts that a chunk of so many stages can be cut to: 1, 2, 3, 4, 6, 8, 12, … and all.
inline std::vector<std::size_t> cuts(std::size_t stages) {
  std::vector<std::size_t> found;
  if (stages > 1) found.push_back(1);
  for (std::size_t power = 1; power < 8; ++power)
    for (std::size_t n : {std::size_t{1} << power, std::size_t{3} << (power - 1)})
      if (n < stages) found.push_back(n);
  found.push_back(stages);
  return found;
}

/// What the head of a chunk says, where its body begins, and its end. `cut`: the data end within the head.
struct Extent {
  Chunk chunk;
  std::size_t body = 0, end = 0;
  bool cut = false;
};

constexpr std::uint8_t kChunkKind = 0xA0;
constexpr std::size_t kLeastChunk = 7;  // bytes

/// How the chunks of a file look as bytes: what its header says.
class ChunkFormat {
 public:
  ChunkFormat(PacketFormat packets, std::size_t stages, std::size_t frames, bool has_model)
      : packets_(std::move(packets)), stages_(stages), frames_(frames), has_model_(has_model) {}

  /// The bytes that no chunk exceeds.
  std::size_t largest() const { return largest_body(stages_, frames_) + 5 + 3 * stages_ + 2; }

  /// Bytes of a chunk.
  std::size_t size(const Chunk& chunk) const {
    std::size_t total = (chunk.frames == frames_ ? 4 : 5) + chunk.body.size() + 2;
    for (std::size_t size : chunk.sizes) total += size > 0x3FFF ? 3 : size > 0x7F ? 2 : 1;
    return total;
  }

  Bytes to_bytes(const Chunk& chunk) const {
    bool is_short = chunk.frames != frames_;
    Bytes data = {static_cast<std::uint8_t>(kChunkKind + chunk.told + 2 * chunk.mixed + 4 * is_short)};
    put_number(data, chunk.sequence, 2);
    if (is_short) data.push_back(static_cast<std::uint8_t>(chunk.frames));
    data.push_back(static_cast<std::uint8_t>(chunk.stages));
    for (std::size_t size : chunk.sizes) {
      for (; size > 0x7F; size >>= 7) data.push_back(static_cast<std::uint8_t>((size & 0x7F) | 0x80));
      data.push_back(static_cast<std::uint8_t>(size));
    }
    put_bytes(data, chunk.body);
    auto found = extent(data, 0);
    if (!found || found->cut || found->end != data.size() + 2) fail_bitstream("a chunk contradicts its sizes");
    seal(data);
    return data;
  }

  /// Where a chunk lies that begins at `at`; nothing where no chunk of this format begins there.
  std::optional<Extent> extent(View data, std::size_t at) const {
    Extent found;
    auto byte = [&](std::size_t i) -> std::size_t {
      found.cut = found.cut || i >= data.size;
      return found.cut ? 0 : data[i];
    };
    std::size_t kind = byte(at), low = byte(at + 1), sequence = low | byte(at + 2) << 8;
    if (found.cut) return found;
    if (kind < kChunkKind || kind > kChunkKind + 7u) return std::nullopt;
    Chunk& chunk = found.chunk;
    chunk.sequence = static_cast<std::uint16_t>(sequence);
    chunk.told = kind & 1, chunk.mixed = kind & 2;
    bool is_short = kind & 4;
    std::size_t begin = at + 3;
    chunk.frames = is_short ? byte(begin++) : frames_;
    chunk.stages = byte(begin++);
    if (found.cut) return found;
    if ((is_short && (chunk.frames < 1 || chunk.frames >= frames_)) || chunk.stages < 1 || chunk.stages > stages_ ||
        (chunk.told && !has_model_))
      return std::nullopt;
    std::size_t most = largest_body(chunk.stages, chunk.frames), total = 0;
    for (std::size_t n = cuts(chunk.stages).size(); n > 0; --n) {
      std::size_t size = 0, i = 0, last = 0x80;
      for (; i < 3 && last & 0x80; ++i) {
        last = byte(begin++);
        if (found.cut) return found;
        size |= (last & 0x7F) << 7 * i;
      }
      // A number takes 3 bytes at most, and no more than it needs.
      if (last & 0x80 || (!last && i > 1) || (total += size) > most) return std::nullopt;
      chunk.sizes.push_back(size);
    }
    found.body = begin;
    found.end = begin + total + 2;
    return found;
  }

 private:
  PacketFormat packets_;
  std::size_t stages_, frames_;
  bool has_model_;

  /// Codes at fixed width, 0.6 % that the range coder loses, 2 bytes a stage count.
  std::size_t largest_body(std::size_t stages, std::size_t frames) const {
    std::size_t codes = packets_.payload_size(stages, frames);
    return codes + codes / 64 + 2 * packets_.streams() * frames + 8;
  }
};

}  // namespace detail

/// What an .edgc file says before its chunks, or before the packets of version 1.
struct Header {
  Fingerprint fingerprint{};                                    // of the bundle
  std::string bundle;                                           // its name
  std::size_t codec_rate = 0, frame_size = 0, sample_rate = 0;  // the last one: of the audio that was encoded
  std::size_t channels = 1, stages = 1, code_bits = 1, frames_per_packet = 1;
  std::size_t stream_channels = 1;
  Layout layout;
  Fingerprint model{};   // of the entropy model, zeros for none
  std::size_t gain = 0;  // dB, by which quiet audio was made louder before it was encoded: decoding takes it back
  std::size_t version = kEdgcVersion;

  std::size_t streams() const { return detail::ceil_div(channels, stream_channels); }
  bool has_model() const { return model != detail::kNoModel; }
  /// What samples are multiplied with before they are encoded, and divided by afterwards.
  double amplitude() const { return std::pow(10.0, static_cast<double>(gain) / 20); }
  PacketFormat format() const { return PacketFormat(streams(), code_bits, layout); }
  detail::ChunkFormat chunk_format() const {
    return detail::ChunkFormat(format(), stages, frames_per_packet, has_model());
  }

  /// Throws where a number is out of its range.
  void check() const {
    auto within = [](std::size_t least, std::size_t number, std::size_t most) {
      return least <= number && number <= most;
    };
    bool fits = within(1000, codec_rate, 768000) && within(1000, sample_rate, 768000) &&
                within(1, frame_size, 0xFFFF) && within(1, channels, 255) && within(1, stages, 255) &&
                within(1, code_bits, 16) && within(1, frames_per_packet, 255) && bundle.size() <= kMaxName &&
                detail::is_printable(bundle) && within(1, stream_channels, 8) && layout.side <= 255 &&
                (layout.widths.empty() || within(stages, layout.widths.size(), 255)) &&
                std::all_of(layout.widths.begin(), layout.widths.end(),
                            [&](std::size_t width) { return within(1, width, 0xFFFF); }) &&
                gain <= kMaxGain &&
                (version == 2 || (layout == Layout{} && stream_channels == 1 && !has_model() && !gain));
    if (!fits || format().payload_size(stages, frames_per_packet) > kMaxPacket)
      detail::fail_bitstream("the header holds a number out of range");
  }

  Bytes to_bytes() const {
    check();
    Bytes rest = Bytes(fingerprint.begin(), fingerprint.end());
    detail::put_number(rest, codec_rate, 4);
    detail::put_number(rest, frame_size, 2);
    detail::put_number(rest, sample_rate, 4);
    for (std::size_t number : {channels, stages, code_bits, frames_per_packet, bundle.size()})
      detail::put_number(rest, number, 1);
    rest.insert(rest.end(), bundle.begin(), bundle.end());
    if (version > 1) {
      for (std::size_t number : {stream_channels, layout.side, layout.widths.size()})
        detail::put_number(rest, number, 1);
      for (std::size_t width : layout.widths) detail::put_number(rest, width, 2);
      rest.insert(rest.end(), model.begin(), model.end());
      if (gain) detail::put_number(rest, gain, 1);
    }
    Bytes data = {'E', 'D', 'G', 'C', static_cast<std::uint8_t>(version)};
    detail::put_number(data, 7 + rest.size() + 4, 2);
    detail::put_bytes(data, rest);
    detail::put_number(data, detail::crc32_of(data), 4);
    return data;
  }
};

// -------------------------------------------------------------------------------------------- .edgc: input and search

/// Reads up to so many bytes to an address and says how many; none at the end. Of a pipe, what is there.
using ReadBytes = std::function<std::size_t(std::uint8_t*, std::size_t)>;

namespace detail {

/// What is read of a file, `ahead` of what was taken; `position` counts the bytes that were taken.
class Input {
 public:
  explicit Input(ReadBytes read) : read_(std::move(read)) {}

  std::size_t position = 0;

  View ahead() const { return View(buffer_.data() + taken_, buffer_.size() - taken_); }

  /// Wait until there are `size` bytes ahead; false where the file ends before.
  bool fill(std::size_t size) {
    while (ahead().size < size) {
      if (taken_ > kPiece) {
        buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(taken_));
        taken_ = 0;
      }
      std::size_t before = buffer_.size();
      buffer_.resize(before + kPiece);
      std::size_t got = read_(buffer_.data() + before, kPiece);
      buffer_.resize(before + std::min(got, kPiece));
      if (!got) return false;
    }
    return true;
  }
  /// Up to `size` bytes, fewer only at the end.
  Bytes take(std::size_t size) {
    fill(size);
    Bytes data = ahead().part(0, size).copy();
    drop(data.size());
    return data;
  }
  void drop(std::size_t size) {
    taken_ += size;
    position += size;
  }

 private:
  static constexpr std::size_t kPiece = 1 << 16;
  ReadBytes read_;
  Bytes buffer_;
  std::size_t taken_ = 0;
};

inline Header read_header(Input& input) {
  constexpr std::size_t kStart = 7, kFixed = 23, kSeal = 4, kShape = 3, kModel = 8;
  Bytes start = input.take(kStart);
  auto begins = [&](std::initializer_list<std::uint8_t> magic) {
    return start.size() >= 4 && std::equal(magic.begin(), magic.end(), start.begin());
  };
  if (!begins({'E', 'D', 'G', 'C'})) {
    if (begins({'E', 'C', 'D', 'C'}))
      fail_bitstream(
          "an .ecdc file of encodec, whose entropy coder needs that package: decode it there, then encode "
          "the audio");
    if (begins({0x93, 'N', 'U', 'M'}))
      fail_bitstream(
          "a .dac file, which is a pickle and could run code: decode it with descript-audio-codec, or save "
          "its codes as .npz and give them to edgecodec codes");
    fail_bitstream(start.empty() ? "empty, not an .edgc file" : "not an .edgc file");
  }
  if (start.size() < kStart) fail_bitstream("truncated in the header");
  std::size_t version = start[4], size = number_at(start, 5, 2);
  if (version > kEdgcVersion)
    fail_bitstream("format version ", version, ", this edgecodec reads up to ", kEdgcVersion, ": upgrade edgecodec");
  std::size_t least = kStart + kFixed + kSeal;
  if (size < least || size > least + kMaxName + (version > 1 ? kShape + 255 * 2 + kModel + 1 : 0) || version < 1)
    fail_bitstream("damaged header");
  Bytes all = start;
  put_bytes(all, input.take(size - kStart));
  if (all.size() < size) fail_bitstream("truncated in the header");
  std::size_t name_size = all[29], name_end = kStart + kFixed + name_size;
  if (number_at(all, size - kSeal, kSeal) != crc32_of(View(all).part(0, size - kSeal)) || name_end > size - kSeal)
    fail_bitstream("damaged header");
  Header header;
  Cursor cursor(all, kStart);
  header.version = version;
  header.fingerprint = fingerprint_at(cursor.bytes(8));
  header.codec_rate = cursor.number(4), header.frame_size = cursor.number(2), header.sample_rate = cursor.number(4);
  header.channels = cursor.number(1), header.stages = cursor.number(1), header.code_bits = cursor.number(1);
  header.frames_per_packet = cursor.number(1);
  cursor.number(1);
  View name = cursor.bytes(name_size);
  header.bundle.assign(name.begin(), name.end());
  std::size_t more = size - kSeal - name_end;
  if (version == 1 ? more != 0 : more < kShape) fail_bitstream("damaged header");
  if (version > 1) {
    header.stream_channels = cursor.number(1), header.layout.side = cursor.number(1);
    std::size_t widths = cursor.number(1);
    std::size_t least_more = kShape + 2 * widths + kModel;
    if (more < least_more || more > least_more + 1) fail_bitstream("damaged header");
    for (std::size_t i = 0; i < widths; ++i) header.layout.widths.push_back(cursor.number(2));
    header.model = fingerprint_at(cursor.bytes(kModel));
    if (more > least_more && !(header.gain = cursor.number(1))) fail_bitstream("damaged header");
  }
  header.check();
  return header;
}

constexpr std::size_t kEndSize = 21;

/// What the end of a file says.
struct EndRecord {
  std::uint64_t samples;  // per channel, at the rate of the audio that was encoded
  std::size_t chunks;
  std::uint32_t checksum;  // CRC-32 of all chunks

  Bytes to_bytes() const {
    Bytes data = {'E'};
    put_number(data, samples, 8);
    put_number(data, chunks, 4);
    put_number(data, checksum, 4);
    put_number(data, crc32_of(data), 4);
    return data;
  }
};

/// Looks for chunks and end records ahead in an input: where one should be, or, behind damage, the next that may
/// follow. However the bytes are made, CRCs are computed of no more than a fixed number of bytes for each that is
/// passed.
class ChunkSearch {
 public:
  ChunkSearch(Input& source, ChunkFormat form) : source_(source), form_(std::move(form)), largest_(form_.largest()) {}

  std::optional<std::size_t> damaged_from;  // the byte behind the last sound one, while nothing sound is found

  /// The sound chunk that is ahead, or nothing.
  std::optional<Extent> chunk() {
    auto found = extent_at(0);
    return found && is_sound_at(0, found->end) ? found : std::nullopt;
  }

  /// The sound end record so many bytes ahead, or nothing.
  std::optional<EndRecord> end(std::size_t at = 0) {
    if (!source_.fill(at + 1) || source_.ahead()[at] != 'E' || !source_.fill(at + kEndSize)) return std::nullopt;
    View record = source_.ahead().part(at, at + kEndSize);
    if (number_at(record, 17, 4) != crc32_of(record.part(0, 17))) return std::nullopt;
    return EndRecord{number_at(record, 1, 8), static_cast<std::size_t>(number_at(record, 9, 4)),
                     static_cast<std::uint32_t>(number_at(record, 13, 4))};
  }

  /// Pass over what is damaged, up to a sound chunk or end record that may follow; false where there is none.
  bool go_on(std::size_t due) {
    if (!damaged_from) damaged_from = source_.position;
    for (std::size_t at = 1; source_.fill(at + 1); ++at) {
      View ahead = source_.ahead();
      auto begins = [](std::uint8_t byte) { return (byte & 0xF8) == kChunkKind || byte == 'E'; };
      auto found = std::find_if(ahead.begin() + at, ahead.end(), begins);
      bool is_there = found != ahead.end();
      at = static_cast<std::size_t>(found - ahead.begin());
      if (is_there && may_follow(at, due)) {
        source_.drop(at);
        return true;
      }
      if (!is_there || at > kPassed) {
        source_.drop(at);
        at = std::numeric_limits<std::size_t>::max();  // the loop makes it 0
      }
    }
    source_.drop(source_.ahead().size);
    return false;
  }

  /// Chunks lost before one of this number (or sequence), `at` bytes ahead; nothing where it cannot follow.
  std::optional<std::size_t> missing(std::size_t number, std::size_t due, std::size_t at = 0) const {
    std::size_t lost = (number - due) & 0xFFFF;
    std::size_t damaged = damaged_from ? source_.position + at - *damaged_from : 0;
    std::size_t most = std::min<std::size_t>(kMostMissing + damaged / kLeastChunk, 1 << 15);
    return lost <= most ? std::optional(lost) : std::nullopt;
  }

  /// Whether the end of the file cuts the chunk that is ahead, which is called `where`, or the end record.
  std::string what_is_cut(const std::string& where) {
    if (source_.fill(1) && source_.ahead()[0] == 'E' && !source_.fill(kEndSize + 1))
      return "the end record is truncated or damaged";
    auto found = form_.extent(source_.ahead(), 0);
    if (!found) return "";
    return found->cut || !source_.fill(found->end) ? "truncated in " + where : "";
  }

 private:
  static constexpr std::size_t kMostMissing = 60;  // chunks that may lack without a trace
  static constexpr std::size_t kCost = 16;         // bytes whose CRC may be computed for each byte that is passed
  static constexpr std::size_t kPassed = 1 << 18;  // bytes that are kept while they are searched

  Input& source_;
  ChunkFormat form_;
  std::size_t largest_, computed_ = 0;

  bool may_follow(std::size_t at, std::size_t due) {
    if (auto record = end(at)) return record->chunks >= due && missing(record->chunks, due, at);
    if (!source_.fill(at + kLeastChunk)) return false;
    if (!missing(number_at(source_.ahead(), at + 1, 2), due, at)) return false;
    auto found = extent_at(at);
    if (!found) return false;
    std::size_t cost = computed_ + found->end - at;
    if (cost > kCost * (source_.position + at + largest_)) return false;
    computed_ = cost;
    return is_sound_at(at, found->end);
  }

  std::optional<Extent> extent_at(std::size_t at) {
    auto found = form_.extent(source_.ahead(), at);
    while (found && found->cut) {
      if (!source_.fill(source_.ahead().size + 1)) return std::nullopt;
      found = form_.extent(source_.ahead(), at);
    }
    return found;
  }

  bool is_sound_at(std::size_t at, std::size_t end) {
    return source_.fill(end) && is_sound(source_.ahead().part(at, end));
  }
};

// ------------------------------------------------------------------------------------------- .edgc: codes of chunks

/// Makes the chunks of one file of packets, and packets of its chunks.
class ChunkCoder {
 public:
  explicit ChunkCoder(Header header, std::shared_ptr<const Predictor> model = nullptr)
      : header_(std::move(header)),
        even_(header_.layout, std::make_shared<Predictor>(std::size_t{1} << header_.code_bits), header_.streams()) {
    if (model) told_.emplace(header_.layout, std::move(model), header_.streams());
  }

  /// The shortest chunk of a packet's codes: by the entropy model, or at even frequencies.
  Chunk encode(const Packet& packet) const {
    check(packet.codes);
    Counts counts = header_.layout.counts(packet.codes);
    Chunk chunk;
    chunk.sequence = packet.sequence;
    chunk.frames = packet.frames();
    chunk.stages = *std::max_element(counts.values.begin(), counts.values.end());
    chunk.mixed = *std::min_element(counts.values.begin(), counts.values.end()) < chunk.stages;
    Codes codes = packet.codes.part(1, 0, header_.layout.lines(chunk.stages));
    std::optional<Coded> best;
    if (told_) best = told_->encode(codes, header_.stages);
    chunk.told = best.has_value();
    if (!best || best->data.size() > bits(counts) / 8) {
      Coded even = even_.encode(codes, header_.stages);
      if (!best || even.data.size() < best->data.size()) {
        best = std::move(even);
        chunk.told = false;
      }
    }
    std::size_t at = 0;
    for (std::size_t cut : cuts(chunk.stages)) {
      std::size_t end = cut == chunk.stages ? best->data.size() : std::max(at, best->ends[cut - 1]);
      chunk.sizes.push_back(end - at);
      at = end;
    }
    chunk.body = std::move(best->data);
    return chunk;
  }

  Packet decode(const Chunk& chunk) const {
    if (chunk.told && !told_)
      fail_bitstream("its codes are told by the bundle's entropy model: give the bundle with --bundle");
    const CodeCoder& coder = chunk.told ? *told_ : even_;
    return Packet{chunk.sequence, coder.decode(chunk.body, chunk.stages, chunk.frames, chunk.mixed, header_.stages),
                  std::nullopt, header_.layout};
  }

 private:
  Header header_;
  CodeCoder even_;
  std::optional<CodeCoder> told_;

  std::size_t bits(const Counts& counts) const {
    std::size_t codes = 0;
    for (std::size_t count : counts.values) codes += header_.layout.codes(count);
    return codes * header_.code_bits + header_.layout.side * counts.values.size() * kSideBits;
  }

  void check(const Codes& codes) const {
    const Layout& layout = header_.layout;
    std::size_t stages = layout.stages(codes.shape[1]);
    if (codes.shape[0] != header_.streams() || stages < 1 || stages > header_.stages || codes.shape[2] < 1 ||
        codes.shape[2] > header_.frames_per_packet)
      fail_bitstream("codes ", listed(codes.shape), " are not what the header announces");
    for (std::size_t row = 0; row < codes.shape[0]; ++row)
      for (std::size_t line = 0; line < codes.shape[1]; ++line)
        for (std::size_t t = 0; t < codes.shape[2]; ++t) {
          std::int64_t code = codes(row, line, t);
          if (line < layout.side && (code < 0 || code >> kSideBits))
            fail_bitstream("a number beside the stages does not fit into ", kSideBits, " bits");
          if (line >= layout.side && (code < kMissing || (code >= 0 && code >> header_.code_bits)))
            fail_bitstream("a code does not fit into ", header_.code_bits, " bits");
        }
    if (!layout.lacks_last_stages(codes)) fail_bitstream("a code does not fit into ", header_.code_bits, " bits");
  }
};

}  // namespace detail

// ----------------------------------------------------------------------------------------- .edgc: reader and writer

/// Takes the next bytes of a file.
using WriteBytes = std::function<void(View)>;

/// Writes an .edgc file: the header at once, then packets as chunks of their own (of version 1, as they are), then
/// `finish`. The sequence of each must follow the one before.
class Writer {
 public:
  /// `model` tells the codes; it is that of the bundle, or nothing.
  Writer(WriteBytes write, Header header, std::shared_ptr<const detail::Predictor> model = nullptr)
      : write_(std::move(write)), header_(std::move(header)), coder_(header_, std::move(model)) {
    write_(header_.to_bytes());
  }

  void write(Packet packet) {
    if (!packet.codes.is_filled()) detail::fail_bitstream("codes are fewer or more than their shape says");
    check(packet.sequence, packet.stages(), packet.frames());
    packet.previous.reset();
    put(header_.version == 1 ? header_.format().to_bytes(packet)
                             : header_.chunk_format().to_bytes(coder_.encode(packet)),
        packet.frames());
  }
  /// The same of a chunk that was made before, of version 2.
  void write(const detail::Chunk& chunk) {
    check(chunk.sequence, chunk.stages, chunk.frames);
    put(header_.chunk_format().to_bytes(chunk), chunk.frames);
  }

  /// The end record: the length per channel at the rate of the audio that was encoded.
  void finish(std::uint64_t samples) { write_(detail::EndRecord{samples, chunks_, checksum_}.to_bytes()); }

  const Header& header() const { return header_; }
  const detail::ChunkCoder& coder() const { return coder_; }

 private:
  WriteBytes write_;
  Header header_;
  detail::ChunkCoder coder_;
  std::size_t chunks_ = 0;
  std::uint32_t checksum_ = 0;
  bool ended_ = false;  // by a chunk of fewer frames

  void check(std::uint16_t sequence, std::size_t stages, std::size_t frames) const {
    const char* what = header_.version == 1 ? "packet " : "chunk ";
    if (sequence != (chunks_ & 0xFFFF) || ended_) detail::fail_bitstream(what, sequence, " out of order");
    if (stages > header_.stages || frames > header_.frames_per_packet)
      detail::fail_bitstream(stages, " stages, ", frames, " frames are more than the header announces");
  }
  void put(const Bytes& data, std::size_t frames) {
    ended_ = header_.version > 1 && frames < header_.frames_per_packet;
    checksum_ = detail::crc32_of(data, checksum_);
    ++chunks_;
    write_(data);
  }
};

/// Reads an .edgc file: the header at once, then packets, one for each chunk, in the order of their sequence. Where it
/// jumps, those between are lost; `damage` says, place by place, what is wrong. After the last one, `samples` is the
/// length, unless the end record was not found or contradicts the chunks, and `lost_at_end` what is lost behind it.
class Reader {
 public:
  explicit Reader(ReadBytes read)
      : input_(std::move(read)), header_(detail::read_header(input_)), search_(input_, header_.chunk_format()) {}
  /// Of bytes that live as long as the reader.
  explicit Reader(View data) : Reader(from_memory(data)) {}
  explicit Reader(std::istream& file) : Reader(from_stream(file)) {}
  Reader(const Reader&) = delete;  // the search looks into the input
  Reader& operator=(const Reader&) = delete;

  std::optional<std::uint64_t> samples;  // per channel, at header().sample_rate
  std::vector<std::string> damage;
  std::size_t lost_at_end = 0;

  const Header& header() const { return header_; }

  /// The next packet, or nothing at the end. Codes that an entropy model tells need that `model`.
  std::optional<Packet> next(const std::shared_ptr<const detail::Predictor>& model = nullptr) {
    if (over_) return std::nullopt;
    std::optional<Packet> packet;
    try {
      if (header_.version == 1) {
        packet = next_packet();
      } else if (auto chunk = next_chunk()) {
        if (!coder_) coder_.emplace(header_, header_.has_model() ? model : nullptr);
        packet = coder_->decode(*chunk);
      }
    } catch (const Damage& found) {
      damage.push_back(found.what);
    }
    if (packet) frames_ += packet->frames();
    over_ = !packet;
    return packet;
  }

 private:
  struct Damage {  // what ends the reading
    std::string what;
  };

  detail::Input input_;
  Header header_;
  detail::ChunkSearch search_;
  std::optional<detail::ChunkCoder> coder_;
  std::size_t due_ = 0, frames_ = 0;  // number of the next chunk, frames that were given
  std::uint32_t checksum_ = 0;
  bool over_ = false;

  static ReadBytes from_memory(View data) {
    return [data](std::uint8_t* to, std::size_t size) mutable {
      View piece = data.part(0, size);
      std::copy(piece.begin(), piece.end(), to);
      data = data.part(size);
      return piece.size;
    };
  }
  static ReadBytes from_stream(std::istream& file) {
    return [&file](std::uint8_t* to, std::size_t size) {
      file.read(reinterpret_cast<char*>(to), static_cast<std::streamsize>(size));
      if (file.bad()) detail::fail_bitstream("cannot read");
      return static_cast<std::size_t>(file.gcount());
    };
  }

  /// What is due, and at which byte.
  std::string place(const char* what) const {
    return std::string(what) + " " + std::to_string(due_) + " (byte " + std::to_string(input_.position) + ")";
  }

  /// The next packet of version 1.
  std::optional<Packet> next_packet() {
    std::string where = place("packet");
    if (!input_.fill(1)) throw Damage{"truncated after packet " + std::to_string(due_) + ": no end record"};
    if (input_.ahead()[0] == 'E') {
      auto record = search_.end();
      if (!record) throw Damage{"the end record is truncated or damaged"};
      end(*record);
      if (!damage.empty()) samples.reset();
      return std::nullopt;
    }
    if (input_.ahead()[0] != 'P') throw Damage{where + ": damaged"};
    if (!input_.fill(5)) throw Damage{"truncated in " + where};
    std::size_t stages = input_.ahead()[1], frames = input_.ahead()[2];
    if (stages < 1 || stages > header_.stages || frames < 1 || frames > header_.frames_per_packet)
      throw Damage{where + ": damaged"};
    PacketFormat form = header_.format();
    std::size_t size = form.size(stages, frames);
    if (!input_.fill(size)) throw Damage{"truncated in " + where};
    Bytes data = input_.take(size);
    Packet packet;
    try {
      packet = form.from_bytes(data);
    } catch (const Error&) {
      throw Damage{where + ": damaged"};
    }
    if (packet.sequence != (due_ & 0xFFFF)) throw Damage{where + ": packets are missing or out of order"};
    checksum_ = detail::crc32_of(data, checksum_);
    ++due_;
    return packet;
  }

  /// The next sound chunk, or nothing at the end.
  std::optional<detail::Chunk> next_chunk() {
    while (input_.fill(1)) {
      std::string where = place("chunk");
      if (auto record = search_.end()) {
        end(*record);
        return std::nullopt;
      }
      auto extent = search_.chunk();
      if (!extent) {
        std::string cut = search_.what_is_cut(where);
        if (!search_.go_on(due_))
          throw Damage{cut.empty() ? where + ": damaged, and nothing sound comes behind it" : cut};
        continue;
      }
      auto missing = search_.missing(extent->chunk.sequence, due_);
      Bytes data = input_.take(extent->end);
      if (!missing) {
        damage.push_back("chunk " + std::to_string(extent->chunk.sequence) + " comes in place of " + where +
                         ": out of order");
        continue;
      }
      say_lost(*missing);
      due_ += *missing + 1;
      checksum_ = detail::crc32_of(data, checksum_);
      extent->chunk.body = View(data).part(extent->body, data.size() - 2).copy();
      return std::move(extent->chunk);
    }
    throw Damage{"truncated after chunk " + std::to_string(due_) + ": no end record"};
  }

  /// Put into words what is lost before the chunk or record at hand.
  void say_lost(std::size_t missing) {
    std::string chunks = missing == 1 ? "chunk " + std::to_string(due_)
                                      : "chunks " + std::to_string(due_) + " to " + std::to_string(due_ + missing - 1);
    if (search_.damaged_from) {
      std::string byte = "byte " + std::to_string(*search_.damaged_from);
      damage.push_back(missing ? chunks + " (" + byte + "): damaged" : byte + ": damaged, but no chunk");
    } else if (missing) {
      damage.push_back(chunks + ": missing");
    }
    search_.damaged_from.reset();
  }

  /// Compare the end record ahead with what was read.
  void end(const detail::EndRecord& record) {
    bool first_version = header_.version == 1;
    bool possible = first_version
                        ? record.chunks == due_
                        : record.chunks >= due_ && search_.missing(record.chunks, due_) == record.chunks - due_;
    if (possible) say_lost(record.chunks - due_);
    input_.drop(detail::kEndSize);
    bool whole = damage.empty();
    // A length beyond all frames is refused; one sample more is the resampler's rounding.
    double frames = static_cast<double>(whole ? frames_ : record.chunks * header_.frames_per_packet);
    double most = frames * static_cast<double>(header_.frame_size) * static_cast<double>(header_.sample_rate) /
                      static_cast<double>(header_.codec_rate) +
                  1;
    if (!possible || static_cast<double>(record.samples) > most || (whole && record.checksum != checksum_)) {
      damage.push_back(std::string("the end record contradicts the ") + (first_version ? "packets" : "chunks"));
      return;
    }
    samples = record.samples;
    lost_at_end = record.chunks - due_;
    if (input_.fill(1)) damage.push_back("bytes follow the end record");
  }
};

// ---------------------------------------------------------------------------------------------------------- bundle

namespace detail {

/// A checked bundle: its folder, its manifest, the bytes of its graphs, and what predicts its codes.
struct Bundle {
  std::filesystem::path path;
  Manifest manifest;
  std::array<Bytes, 4> graphs;
  std::shared_ptr<const Predictor> predictor;
  Fingerprint fingerprint{}, model_fingerprint{};
};

inline bool is_hex(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
}

/// The first bytes of a digest in hex, which is one.
inline Bytes from_hex(const std::string& text) {
  Bytes data;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    data.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return data;
}

/// The bytes of a regular file, or nothing where there are more than `limit`.
inline std::optional<Bytes> read_bounded(const std::filesystem::path& path, std::size_t limit, const char* advice) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    fail_bundle(path.string(), ": ",
                error && error != std::errc::no_such_file_or_directory ? error.message() : "No such file", "; ",
                advice);
  if (std::filesystem::file_size(path, error) > limit && !error) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_bundle(path.string(), ": cannot read; ", advice);
  Bytes data;
  std::array<char, 1 << 16> piece;
  while (file.read(piece.data(), piece.size()), file.gcount() > 0) {
    data.insert(data.end(), piece.begin(), piece.begin() + file.gcount());
    if (data.size() > limit) return std::nullopt;
  }
  if (file.bad()) fail_bundle(path.string(), ": cannot read; ", advice);
  return data;
}

/// The bytes of one listed file, which must lie in the folder itself and be what the manifest says.
inline Bytes read_entry(const std::filesystem::path& folder, const std::string& what, const FileEntry& entry) {
  const std::string& name = entry.file;
  bool has_drive = name.size() > 1 && name[1] == ':';
  if (has_drive || name == "." || name == ".." || name.find_first_of(std::string("/\\\0", 3)) != std::string::npos ||
      !is_printable(name))
    fail_bundle(folder.string(), ": ", what, " file '", is_printable(name) ? one_line(name) : "?",
                "' is no plain file name, so it would leave "
                "the bundle");
  const char* advice = "the bundle is incomplete, copy or export it again";
  std::filesystem::path path = folder / name;
  std::error_code error;
  auto real = std::filesystem::canonical(path, error);
  if (error) fail_bundle(path.string(), ": ", error.message(), "; ", advice);
  if (real.parent_path() != std::filesystem::canonical(folder, error))
    fail_bundle(path.string(), ": a link that leaves the bundle; copy the file into it");
  auto data = read_bounded(path, entry.bytes, advice);
  if (!data || data->size() != entry.bytes || !is_hex(entry.sha256) ||
      from_hex(entry.sha256) != Bytes(View(sha256(*data).data(), 32).copy()))
    fail_bundle(path.string(), ": altered, its bytes are not those of the manifest; copy or export the bundle again");
  return *data;
}

/// What an ONNX file says before onnxruntime reads it: whether a tensor lies in another file, which onnxruntime would
/// look for in the current folder. A model is a tree of protobuf messages; only the branches that can hold a tensor are
/// walked. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
class OnnxFields {
 public:
  /// Whether onnxruntime takes a file for its own format, a FlatBuffer, whatever it is called. Such a file passes by
  /// all that is checked here. It cannot name another one either: its tensors lie in it, or at an offset of a file that
  /// the caller must hand over, and no session does.
  static bool is_ort_format(View model) {
    return model.size >= 8 && std::equal(model.data + 4, model.data + 8, "ORTM");
  }

  /// Throws for what is no protobuf, or one too deep or of too many parts to be a model.
  static bool keeps_data_elsewhere(View model) {
    struct Message {
      Kind kind;
      View data;
      int depth;
    };
    std::vector<Message> waiting{{Kind::model, model, 0}};
    std::size_t count = 0;
    while (!waiting.empty()) {
      Message message = waiting.back();
      waiting.pop_back();
      for (std::size_t at = 0; at < message.data.size;) {
        Field field = next(message.data, at);
        if (++count > kMostFields || message.depth > kMostDepth)
          fail_bundle("is too large or too deep to be a graph of a codec");
        if (message.kind == Kind::tensor) {
          if (field.number == kExternalData || (field.number == kDataLocation && field.value)) return true;
        } else if (auto kind = branch(message.kind, field.number)) {
          if (field.type != kLength) fail_bundle("is no ONNX model");
          waiting.push_back({*kind, field.data, message.depth + 1});
        }
      }
    }
    return false;
  }

 private:
  enum class Kind { model, graph, training, function, node, attribute, sparse, tensor };
  static constexpr int kMostDepth = 32;  // of messages within messages; protobuf itself stops at 100
  static constexpr std::size_t kMostFields = 2'000'000;
  static constexpr std::uint64_t kExternalData = 13, kDataLocation = 14;  // of a tensor
  static constexpr std::uint64_t kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;

  struct Field {
    std::uint64_t number, type, value;
    View data;
  };

  static std::optional<Kind> branch(Kind kind, std::uint64_t number) {
    using Branches = std::map<std::uint64_t, Kind>;
    static const std::map<Kind, Branches> branches = {
        {Kind::model, {{7, Kind::graph}, {20, Kind::training}, {25, Kind::function}}},
        {Kind::graph, {{1, Kind::node}, {5, Kind::tensor}, {15, Kind::sparse}}},
        {Kind::training, {{1, Kind::graph}, {2, Kind::graph}}},
        {Kind::function, {{7, Kind::node}, {11, Kind::attribute}}},
        {Kind::node, {{5, Kind::attribute}}},
        {Kind::attribute,
         {{5, Kind::tensor},
          {6, Kind::graph},
          {10, Kind::tensor},
          {11, Kind::graph},
          {22, Kind::sparse},
          {23, Kind::sparse}}},
        {Kind::sparse, {{1, Kind::tensor}, {2, Kind::tensor}}},
    };
    const Branches& own = branches.at(kind);
    auto found = own.find(number);
    if (found == own.end()) return std::nullopt;
    return found->second;
  }

  [[noreturn]] static void fail_short() { fail_bundle("is no ONNX model, or one that was cut short"); }

  static Field next(View data, std::size_t& at) {
    std::uint64_t tag = varint(data, at), value = 0, size = 0;
    switch (tag & 7) {
      case kVarint:
        value = varint(data, at);
        break;
      case kLength:
        size = varint(data, at);
        break;
      case kFixed64:
        size = 8;
        break;
      case kFixed32:
        size = 4;
        break;
      default:  // groups, which ONNX has none of
        fail_bundle("is no ONNX model");
    }
    if (size > data.size - at || tag >> 32 || !(tag >> 3)) fail_short();
    at += size;
    return {tag >> 3, tag & 7, value, data.part(at - size, at)};
  }

  /// A number in groups of seven bits, lowest first; of what does not fit into 64 of them, the lowest and the highest.
  static std::uint64_t varint(View data, std::size_t& at) {
    std::uint64_t value = 0;
    for (int shift = 0; at < data.size && shift < 70; shift += 7) {
      std::uint64_t bits = data[at] & 127u;
      bool fits = shift < 63 || bits < 2;
      value |= fits ? bits << shift : std::uint64_t{1} << 63;
      if (data[at++] < 128) return value;
    }
    fail_short();
  }
};

inline Bundle read_bundle(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) fail_bundle(folder.string(), ": no such bundle folder");
  Bundle bundle;
  bundle.path = folder;
  auto manifest_path = folder / "manifest.json";
  auto text = read_bounded(manifest_path, kManifestBytes, "is this a bundle folder?");
  if (!text) fail_bundle(manifest_path.string(), ": larger than ", kManifestBytes, " bytes, so no manifest");
  try {
    bundle.manifest = Manifest::from_json(std::string(text->begin(), text->end()));
  } catch (const Error& error) {
    fail_bundle(manifest_path.string(), ": ", error.what());
  }
  const Manifest& m = bundle.manifest;
  for (std::size_t i = 0; i < kGraphs.size(); ++i) {
    bundle.graphs[i] = read_entry(folder, kGraphs[i], m.graphs[i]);
    std::filesystem::path path = folder / m.graphs[i].file;
    std::string file = path.string();
    bool is_ort = path.extension() == ".ort";
    if (OnnxFields::is_ort_format(bundle.graphs[i]) != is_ort)
      fail_bundle(file, ": .ort, and no other file, must be in onnxruntime's own format");
    if (is_ort) continue;  // it can name no other file
    bool elsewhere = false;
    try {
      elsewhere = OnnxFields::keeps_data_elsewhere(bundle.graphs[i]);
    } catch (const Error& error) {
      fail_bundle(file, ": ", error.what());
    }
    if (elsewhere) fail_bundle(file, ": keeps weights in another file (external data); save it as one file");
  }
  Bytes digests;
  for (const FileEntry& graph : m.graphs) put_bytes(digests, from_hex(graph.sha256));
  bundle.fingerprint = fingerprint_at(View(sha256(digests).data(), 32));
  if (!m.fingerprint.empty()) bundle.fingerprint = fingerprint_at(from_hex(m.fingerprint));
  bundle.predictor = std::make_shared<Predictor>(m.codebook_size);
  if (m.entropy) {
    Bytes data = read_entry(folder, "entropy", *m.entropy);
    try {
      bundle.predictor = EntropyModel::read(data, m.max_stages, m.codebook_size);
    } catch (const Error& error) {
      fail_bundle((folder / m.entropy->file).string(), ": no entropy model of this bundle: ", error.what());
    }
    bundle.model_fingerprint = fingerprint_at(from_hex(m.entropy->sha256));
  }
  return bundle;
}

}  // namespace detail

// ------------------------------------------------------------------------------------------------------ onnxruntime

#ifdef EDGECODEC_DLOPEN
/// Open the onnxruntime that this program uses, once and before the first `load`: a path, or a name that the system
/// finds. Without a call, EDGECODEC_ONNXRUNTIME in the environment says it, or libonnxruntime.so.1 is taken.
///
/// The symbols of the library carry its release, so that a program that was linked with one refuses another. What is
/// opened may be any release from that of the headers on: that of a Python wheel too.
inline void open_runtime(const std::string& library) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  static bool opened = false;
  if (opened) return;
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    detail::fail_bundle("onnxruntime cannot be opened: ", detail::one_line(why ? why : library));
  }
  auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  const OrtApi* api = base ? base()->GetApi(ORT_API_VERSION) : nullptr;
  if (!api) detail::fail_bundle(library, ": no onnxruntime 1.", ORT_API_VERSION, " or newer, as its headers are");
  Ort::InitApi(api);
  opened = true;
}
#endif

namespace detail {

inline void start_runtime() {
#ifdef EDGECODEC_DLOPEN
  const char* named = std::getenv("EDGECODEC_ONNXRUNTIME");
  open_runtime(named ? named : "libonnxruntime.so.1");
#else
  if (!OrtGetApiBase()->GetApi(ORT_API_VERSION)) fail_bundle("onnxruntime is older than its headers");
#endif
}

/// That of the process, without a log: what goes wrong is thrown.
inline Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "edgecodec");
  return env;
}

/// What calls of graphs take and give.
struct Tensors {
  std::vector<Ort::Value> values;

  void add(const Floats& array) { add(array.values, {array.shape[0], array.shape[1], array.shape[2]}); }
  void add_state(const Floats& state) { add(state.values, {state.shape[0], state.shape[2]}); }
  void add(const Codes& codes) { add(codes.values, {codes.shape[0], codes.shape[1], codes.shape[2]}); }
  void add(const std::int64_t& scalar) {
    values.push_back(
        Ort::Value::CreateTensor<std::int64_t>(memory(), const_cast<std::int64_t*>(&scalar), 1, nullptr, 0));
  }

 private:
  /// A tensor of numbers that outlive it; onnxruntime does not write to inputs.
  template <class T>
  void add(const std::vector<T>& numbers, const std::vector<std::size_t>& shape) {
    static T nothing{};
    std::vector<std::int64_t> lengths(shape.begin(), shape.end());
    T* data = numbers.empty() ? &nothing : const_cast<T*>(numbers.data());
    values.push_back(Ort::Value::CreateTensor<T>(memory(), data, numbers.size(), lengths.data(), lengths.size()));
  }
  static const Ort::MemoryInfo& memory() {
    static const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return cpu;
  }
};

/// An output as an array of three dimensions: of two, [a, 1, b].
template <class T>
Array3<T> array_of(const Ort::Value& value) {
  auto info = value.GetTensorTypeAndShapeInfo();
  std::vector<std::int64_t> shape = info.GetShape();
  if (shape.size() == 2) shape.insert(shape.begin() + 1, 1);
  if (shape.size() != 3) fail_bundle("an output of ", shape.size(), " dimensions");
  Array3<T> array;
  for (std::size_t i = 0; i < 3; ++i) array.shape[i] = static_cast<std::size_t>(shape[i]);
  const T* data = value.GetTensorData<T>();
  array.values.assign(data, data + info.GetElementCount());
  return array;
}

enum Graph : std::size_t { encoder, quantizer_encode, quantizer_decode, decoder };

/// The four graphs of a bundle, ready to run on the CPU. Any number of threads may.
class Sessions {
 public:
  Sessions(const Bundle& bundle, int threads) : manifest(bundle.manifest) {
    start_runtime();
    if (threads < 1) fail_bundle("threads must be 1 or more, not ", threads);
    for (std::size_t i = 0; i < kGraphs.size(); ++i) start(bundle, i, threads);
    silence = checked_run(bundle);
  }

  const Manifest manifest;
  Floats silence;  // latents [1, 1, D] of the last of several silent frames, at all stages

  /// Audio [B, C, frame_size * T] after what `state` remembers, to codes [B, lines, T]; `state` becomes the next one.
  Codes encode(const Floats& audio, Floats& state, std::size_t stages, std::size_t paths, bool last) const {
    Codes codes(audio.shape[0], manifest.layout.lines(stages), 0);
    Floats next = state;
    each_block(encoder, audio, 2, manifest.frame_size, last, [&](const Floats& block, bool is_last) {
      codes.append(2, quantize(step(encoder, block, next, is_last), stages, paths));
    });
    state = std::move(next);
    return codes;
  }

  /// Audio to latents [B, T, D], as `encode`.
  Floats analyze(const Floats& audio, Floats& state, bool last) const {
    Floats latents(audio.shape[0], 0, manifest.latent_dim), next = state;
    each_block(encoder, audio, 2, manifest.frame_size, last,
               [&](const Floats& block, bool is_last) { latents.append(1, step(encoder, block, next, is_last)); });
    state = std::move(next);
    return latents;
  }

  /// Codes, already checked, to audio [B, C, frame_size * T].
  Floats decode(const Codes& codes, Floats& state, bool last) const {
    Floats audio(codes.shape[0], manifest.channels, 0), next = state;
    each_block(decoder, codes, 2, 1, last, [&](const Codes& block, bool is_last) {
      Floats made = block.empty() ? Floats(codes.shape[0], 0, manifest.latent_dim) : latents(block);
      audio.append(2, step(decoder, made, next, is_last));
    });
    state = std::move(next);
    return audio;
  }

  /// Latents [B, T, D] to audio.
  Floats synthesize(const Floats& latents, Floats& state, bool last) const {
    Floats audio(latents.shape[0], manifest.channels, 0), next = state;
    each_block(decoder, latents, 1, 1, last,
               [&](const Floats& block, bool is_last) { audio.append(2, step(decoder, block, next, is_last)); });
    state = std::move(next);
    return audio;
  }

  /// Codes [B, lines, T] of latents [B, T, D]; the search follows `paths` after every stage, 0 for those of the bundle.
  Codes quantize(const Floats& latents, std::size_t stages, std::size_t paths) const {
    if (latents.empty()) return Codes(latents.shape[0], manifest.layout.lines(stages), 0);
    std::size_t frames = latents.shape[1], rows = latents.shape[0] * frames * (paths ? paths : kUsualPaths);
    std::size_t calls = std::min(frames, ceil_div(rows, kSearchPaths));
    if (calls <= 1) return searched(latents, stages, paths);
    Codes codes(latents.shape[0], manifest.layout.lines(stages), 0);
    for (std::size_t i = 0, first = 0; i < calls; ++i) {
      std::size_t end = first + frames / calls + (i < frames % calls);  // even: short calls cost more a frame
      codes.append(2, searched(latents.part(1, first, end), stages, paths));
      first = end;
    }
    return codes;
  }

  /// Latents [B, T, D] of codes, already checked; frames of as many stages go together.
  Floats latents(const Codes& codes) const {
    if (is_whole(codes)) return latents_of_whole(codes);
    const Layout& layout = manifest.layout;
    auto counts = layout.counts(codes);
    Floats latents(codes.shape[0], codes.shape[2], manifest.latent_dim);
    for (std::size_t stages : std::set<std::size_t>(counts.values.begin(), counts.values.end())) {
      std::vector<std::pair<std::size_t, std::size_t>> places;
      for (std::size_t b = 0; b < codes.shape[0]; ++b)
        for (std::size_t t = 0; t < codes.shape[2]; ++t)
          if (counts(0, b, t) == stages) places.emplace_back(b, t);
      Codes alike(1, layout.lines(stages), places.size());
      for (std::size_t line = 0; line < alike.shape[1]; ++line)
        for (std::size_t i = 0; i < places.size(); ++i)
          alike(0, line, i) = codes(places[i].first, line, places[i].second);
      Floats found = latents_of_whole(alike);
      for (std::size_t i = 0; i < places.size(); ++i)
        std::copy_n(&found(0, i, 0), manifest.latent_dim, &latents(places[i].first, places[i].second, 0));
    }
    return latents;
  }

  /// [B, 1, size]: before the first frame.
  Floats zero_state(Graph graph, std::size_t batch) const {
    return Floats(batch, 1, graph == encoder ? manifest.encoder_state : manifest.decoder_state);
  }

  bool looks_ahead(Graph graph) const {
    return (graph == encoder ? manifest.encoder_lookahead : manifest.decoder_lookahead) > 0;
  }

 private:
  // Frames times streams, and samples of each, in one call: bounds memory, and is long enough to be fast.
  static constexpr std::size_t kBlockFrames = 64, kBlockSamples = 1 << 16;
  static constexpr std::size_t kSearchPaths = 512;  // frames times paths in one call: all scores stay in the caches
  static constexpr std::size_t kUsualPaths = 2;     // of the search that a bundle was made for

  mutable std::array<std::optional<Ort::Session>, 4> sessions_;  // running one changes nothing
  std::array<std::vector<std::string>, 4> inputs_, outputs_;
  std::array<bool, 4> one_stream_{};  // whether a call takes one only, as graphs of fixed shapes may: each has its own

  Codes searched(const Floats& latents, std::size_t stages, std::size_t paths) const {
    if (one_stream_[quantizer_encode] && latents.shape[0] > 1)
      return each_stream(latents, [&](const Floats& own, std::size_t) { return searched(own, stages, paths); });
    auto count = static_cast<std::int64_t>(stages), width = static_cast<std::int64_t>(paths);
    Tensors in;
    in.add(latents);
    in.add(count);
    if (manifest.max_paths) in.add(width);
    return array_of<std::int64_t>(run(quantizer_encode, in)[0]);
  }

  std::size_t block_frames(std::size_t batch) const {
    std::size_t fitting = std::min(kBlockFrames, kBlockSamples / manifest.frame_size) / batch;
    if (manifest.call_frames) return manifest.call_frames;
    return std::max({manifest.encoder_start, manifest.decoder_start, fitting});
  }

  /// Calls of no more than a block of frames, each `unit` places of a dimension. The end of a stream may bring no more
  /// frames, and yet what was held back.
  template <class Array, class Call>
  void each_block(Graph graph, const Array& array, std::size_t dimension, std::size_t unit, bool last,
                  Call call) const {
    std::size_t frames = array.shape[dimension] / unit, size = block_frames(array.shape[0]);
    std::size_t calls = std::max<std::size_t>(ceil_div(frames, size), last && looks_ahead(graph) ? 1 : 0);
    for (std::size_t i = 0; i < calls; ++i) {
      std::size_t end = std::min((i + 1) * size, frames);
      if (calls == 1 && end == frames)
        call(array, last);
      else
        call(array.part(dimension, i * size * unit, end * unit), last && i + 1 == calls);
    }
  }

  /// What a call for each of several streams gives.
  template <class Array, class Call>
  static std::invoke_result_t<Call, Array, std::size_t> each_stream(const Array& array, Call call) {
    auto made = call(array.part(0, 0, 1), std::size_t{0});
    for (std::size_t i = 1; i < array.shape[0]; ++i) {
      auto next = call(array.part(0, i, i + 1), i);
      if (next.shape[1] != made.shape[1] || next.shape[2] != made.shape[2])
        fail_bundle("streams give ", listed(made.shape), " and ", listed(next.shape));
      made.append(0, next);
    }
    return made;
  }

  /// One call of a graph with a state. Where it takes several frames and no fewer, zeros follow a clip's end.
  Floats step(Graph graph, const Floats& x, Floats& state, bool last) const {
    std::size_t in = graph == encoder ? 2 : 1, out = 3 - in;  // the dimensions of frames
    std::size_t each = graph == encoder ? manifest.frame_size : 1, given = graph == encoder ? 1 : manifest.frame_size;
    std::size_t size = manifest.call_frames, frames = x.shape[in] / each;
    if (size <= 1 || frames == size) return called(graph, x, state, last);
    if (!last)
      fail_bundle(kGraphs[graph], ": takes ", size, " frames a call, not ", frames, ": whole clips, and no streams");
    std::array<std::size_t, 3> missing = x.shape;
    missing[in] = (size - frames) * each;
    Floats filled = x;
    filled.append(in, Floats(missing[0], missing[1], missing[2]));
    Floats made = called(graph, filled, state, last);
    if (made.shape[out] != size * given) fail_bundle(kGraphs[graph], ": gives ", listed(made.shape), " in a full call");
    return made.part(out, 0, frames * given);
  }

  Floats called(Graph graph, const Floats& x, Floats& state, bool last) const {
    if (one_stream_[graph] && x.shape[0] > 1) {
      Floats next(0, 1, state.shape[2]);
      Floats made = each_stream(x, [&](const Floats& own, std::size_t i) {
        Floats before = state.part(0, i, i + 1), given = called(graph, own, before, last);
        next.append(0, before);
        return given;
      });
      state = std::move(next);
      return made;
    }
    std::int64_t is_last = last;
    Tensors in;
    in.add(x);
    in.add_state(state);
    if (looks_ahead(graph)) in.add(is_last);
    auto out = run(graph, in);
    Floats made = array_of<float>(out[0]), next = array_of<float>(out[1]);
    if (next.shape != state.shape) fail_bundle(kGraphs[graph], ": its state has changed its shape");
    state = std::move(next);
    return made;
  }

  Floats latents_of_whole(const Codes& codes) const {
    if (one_stream_[quantizer_decode] && codes.shape[0] > 1)
      return each_stream(codes, [&](const Codes& own, std::size_t) { return latents_of_whole(own); });
    Tensors in;
    in.add(codes);
    Floats latents = array_of<float>(run(quantizer_decode, in)[0]);
    if (latents.shape != std::array<std::size_t, 3>{codes.shape[0], codes.shape[2], manifest.latent_dim})
      fail_bundle("quantizer_decode: latents ", listed(latents.shape), " of codes ", listed(codes.shape));
    return latents;
  }

  std::vector<Ort::Value> run(Graph graph, const Tensors& in) const {
    std::vector<const char*> inputs, outputs;
    for (const auto& name : inputs_[graph]) inputs.push_back(name.c_str());
    for (const auto& name : outputs_[graph]) outputs.push_back(name.c_str());
    try {
      return sessions_[graph]->Run(Ort::RunOptions{nullptr}, inputs.data(), in.values.data(), in.values.size(),
                                   outputs.data(), outputs.size());
    } catch (const Ort::Exception& error) {
      fail_bundle(kGraphs[graph], ": onnxruntime cannot run the graph: ", one_line(error.what()));
    }
  }

  void start(const Bundle& bundle, std::size_t graph, int threads) {
    std::string where = (bundle.path / manifest.graphs[graph].file).string();
    try {
      Ort::SessionOptions options;
      options.SetIntraOpNumThreads(threads);
      options.SetInterOpNumThreads(1);
      options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
      options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
      options.AddConfigEntry("session.intra_op.allow_spinning", "0");
      options.AddConfigEntry("session.set_denormal_as_zero", "1");
      const Bytes& data = bundle.graphs[graph];
      sessions_[graph].emplace(environment(), data.data(), data.size(), options);
    } catch (const Ort::Exception& error) {
      fail_bundle(where, ": onnxruntime refuses the graph: ", one_line(error.what()));
    }
    try {
      check_signature(graph, where);
    } catch (const Ort::Exception& error) {
      fail_bundle(where, ": onnxruntime refuses the graph: ", one_line(error.what()));
    }
  }

  struct Declared {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape;  // -1 for any length
  };

  /// Refuse a graph whose inputs and outputs contradict the manifest; a dimension may stay symbolic.
  void check_signature(std::size_t graph, const std::string& where) {
    const Manifest& m = manifest;
    auto size = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    constexpr auto floats = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    constexpr auto whole = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    const Declared audio{"audio", floats, {-1, size(m.channels), -1}};
    const Declared latents{"latents", floats, {-1, -1, size(m.latent_dim)}};
    const Declared codes{"codes", whole, {-1, -1, -1}};
    const Declared state{"state", floats, {-1, size(graph == encoder ? m.encoder_state : m.decoder_state)}};
    const Declared next{"next_state", floats, state.shape};
    std::array<std::vector<Declared>, 4> inputs = {
        {{audio, state}, {latents, {"n_stages", whole, {}}}, {codes}, {latents, state}}};
    const std::array<std::vector<Declared>, 4> outputs = {{{latents, next}, {codes}, {latents}, {audio, next}}};
    if (m.max_paths) inputs[quantizer_encode].push_back({"paths", whole, {}});
    if (m.encoder_lookahead) inputs[encoder].push_back({"last", whole, {}});
    if (m.decoder_lookahead) inputs[decoder].push_back({"last", whole, {}});
    const Ort::Session& session = *sessions_[graph];
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session.GetInputCount(); ++i)
      inputs_[graph].emplace_back(session.GetInputNameAllocated(i, allocator).get());
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
      outputs_[graph].emplace_back(session.GetOutputNameAllocated(i, allocator).get());
    check_nodes(where, "input", inputs_[graph], inputs[graph],
                [&](std::size_t i) { return session.GetInputTypeInfo(i); });
    check_nodes(where, "output", outputs_[graph], outputs[graph],
                [&](std::size_t i) { return session.GetOutputTypeInfo(i); });
    for (std::size_t i = 0; i < inputs[graph].size(); ++i) {
      Ort::TypeInfo type = session.GetInputTypeInfo(i);
      std::vector<std::int64_t> shape = type.GetTensorTypeAndShapeInfo().GetShape();
      if (!shape.empty() && shape[0] == 1) one_stream_[graph] = true;
    }
  }

  template <class TypeInfo>
  static void check_nodes(const std::string& where, const std::string& what, const std::vector<std::string>& names,
                          const std::vector<Declared>& expected, TypeInfo type_info) {
    auto joined = [](const std::vector<std::string>& all) {
      std::string text;
      for (const auto& name : all) text += (text.empty() ? "" : ", ") + name;
      return text;
    };
    std::vector<std::string> wanted;
    for (const Declared& each : expected) wanted.push_back(each.name);
    if (names != wanted)
      fail_bundle(where, ": has ", what, "s ", one_line(joined(names)).substr(0, 200), ", expected ", joined(wanted));
    for (std::size_t i = 0; i < names.size(); ++i) {
      Ort::TypeInfo type = type_info(i);
      if (type.GetONNXType() != ONNX_TYPE_TENSOR) fail_bundle(where, ": ", what, " ", names[i], " is no tensor");
      auto tensor = type.GetTensorTypeAndShapeInfo();
      std::vector<std::int64_t> shape = tensor.GetShape();
      bool fits = tensor.GetElementType() == expected[i].type && shape.size() == expected[i].shape.size();
      for (std::size_t k = 0; k < shape.size() && fits; ++k)
        fits = expected[i].shape[k] < 0 || shape[k] < 0 || shape[k] == expected[i].shape[k];
      if (!fits)
        fail_bundle(where, ": ", what, " ", names[i], " is ", type_text(tensor.GetElementType()), " ",
                    shape_text(shape), ", the manifest says ", type_text(expected[i].type), " ",
                    shape_text(expected[i].shape));
    }
  }

  static std::string type_text(ONNXTensorElementDataType type) {
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return "tensor(float)";
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? "tensor(int64)" : "of type " + std::to_string(type);
  }
  static std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (std::int64_t length : shape)
      text += (text.empty() ? "" : ", ") + (length < 0 ? std::string("None") : std::to_string(length));
    return "[" + text + "]";
  }

  /// The least stream through the whole chain: shapes that no declaration shows, and codes in range. Gives latents
  /// [1, 1, D] of silence.
  Floats checked_run(const Bundle& bundle) const {
    const Manifest& m = manifest;
    std::size_t stages = m.max_stages;
    std::size_t frames = std::max({std::size_t{2}, m.encoder_start, m.decoder_start, m.call_frames});
    Floats audio(1, m.channels, frames * m.frame_size), latents(1, 0, m.latent_dim);
    auto contradicts = [&](const std::string& what) {
      fail_bundle(bundle.path.string(), ": the graphs contradict the manifest: ", what);
    };
    auto expect = [&](const char* what, const auto& array, std::array<std::size_t, 3> shape) {
      if (array.shape != shape)
        contradicts(std::string(what) + " " + listed(array.shape) + ", expected " + listed(shape));
    };
    try {
      Floats state = zero_state(encoder, 1);
      each_block(encoder, audio, 2, m.frame_size, false,
                 [&](const Floats& block, bool) { latents.append(1, step(encoder, block, state, false)); });
      expect("latents", latents, {1, frames - m.encoder_lookahead, m.latent_dim});
      if (m.encoder_lookahead) {
        Floats rest = step(encoder, Floats(1, m.channels, 0), state, true);
        expect("last latents", rest, {1, m.encoder_lookahead, m.latent_dim});
        latents.append(1, rest);
      }
      for (std::size_t paths : {std::size_t{0}, m.max_paths}) {
        Codes codes = quantize(latents, stages, paths);
        expect("codes", codes, {1, m.layout.lines(stages), frames});
        m.check_codes(codes);
      }
      Floats quantized = this->latents(quantize(latents, stages, 0));
      expect("decoded latents", quantized, latents.shape);
      state = zero_state(decoder, 1);
      expect("decoded audio", synthesize(quantized, state, false),
             {1, m.channels, frames * m.frame_size - m.decoder_lookahead});
      expect("last audio", synthesize(quantized.part(1, 0, 0), state, true), {1, m.channels, m.decoder_lookahead});
      return quantized.part(1, frames - 1, frames);
    } catch (const Error& error) {
      std::string text = error.what();
      if (text.find("the graphs contradict the manifest") != std::string::npos) throw;
      contradicts(text);
    }
    return {};
  }
};

// ----------------------------------------------------------------------------------------------- audio as it comes in

constexpr std::size_t kMaxChannels = 255;

inline void check_channels(std::size_t channels) {
  if (channels < 1 || channels > kMaxChannels)
    fail(Error::Kind::audio, "channels must be 1 to ", kMaxChannels, ", not ", channels);
}

/// Samples in which every number is finite and none is subnormal: those would run 100 times slower.
inline Audio as_audio(Audio audio) {
  if (audio.values.size() != audio.channels * audio.samples)
    fail(Error::Kind::audio, "audio of ", audio.channels, " channels of ", audio.samples, " samples holds ",
         audio.values.size(), " numbers");
  for (std::size_t i = 0; i < audio.values.size(); ++i) {
    if (!std::isfinite(audio.values[i]))
      fail(Error::Kind::audio, "audio holds NaN or infinity, first at sample ", i % audio.samples);
    if (std::abs(audio.values[i]) < 1e-20f) audio.values[i] = 0;
  }
  return audio;
}

/// Channels as streams of `each` channels, zeros after the end up to `samples`; the last one fills a group up.
inline Floats grouped(const Audio& audio, std::size_t each, std::size_t samples) {
  Floats streams(ceil_div(audio.channels, each), each, samples);
  for (std::size_t i = 0; i < streams.shape[0] * each; ++i) {
    const float* from = audio.channel(std::min(i, audio.channels - 1));
    std::copy_n(from, std::min(audio.samples, samples), streams.values.data() + i * samples);
  }
  return streams;
}

/// Streams [streams, C, T] as the channels that went in.
inline Audio ungrouped(Floats audio, std::size_t channels) {
  std::size_t samples = audio.shape[2];
  audio.values.resize(channels * samples);
  return Audio(channels, samples, std::move(audio.values));
}

// ---------------------------------------------------------------------------------------------- lost packets: latents

/// Latents [B, frames, D] from `last` [B, 1, D] towards `silence` [1, 1, D], `done` frames after the last sound: they
/// reach it `length` frames after that. With those `following` the last of them, they rise to those.
inline Floats fade(const Floats& last, const Floats& silence, std::size_t done, std::size_t frames, double length,
                   const std::optional<Floats>& following) {
  Floats latents(last.shape[0], frames, last.shape[2]);
  for (std::size_t i = 0; i < frames; ++i) {
    auto t = static_cast<double>(i + 1), all = static_cast<double>(frames);
    auto gain = static_cast<float>(std::clamp(1 - (static_cast<double>(done) + t) / (length + 1), 0.0, 1.0));
    auto rise = static_cast<float>(std::clamp(1 - (all + 1 - t) / (std::min(length, all) + 1), 0.0, 1.0));
    if (following) gain = std::min(gain, 1 - rise);
    for (std::size_t b = 0; b < latents.shape[0]; ++b)
      for (std::size_t d = 0; d < latents.shape[2]; ++d) {
        float quiet = silence(0, 0, d);
        latents(b, i, d) = quiet + (last(b, 0, d) - quiet) * gain;
        if (following) latents(b, i, d) += ((*following)(b, 0, d) - quiet) * rise;
      }
  }
  return latents;
}

// ---------------------------------------------------------------------------------------------------- variable rate

/// The sum of numbers as numpy adds them: by eight at a time, more than 128 halved first. Which frame gets how many
/// stages hangs on sums, now and then on the last bit of one.
template <class T>
T pairwise_sum(const T* numbers, std::size_t count) {
  if (count > 128) {
    std::size_t half = count / 2 - count / 2 % 8;
    return pairwise_sum(numbers, half) + pairwise_sum(numbers + half, count - half);
  }
  T sum = 0;
  std::size_t i = 0;
  if (count >= 8) {
    std::array<T, 8> part;
    std::copy_n(numbers, 8, part.begin());
    for (i = 8; i + 8 <= count; i += 8)
      for (std::size_t n = 0; n < 8; ++n) part[n] += numbers[i + n];
    sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  }
  for (; i < count; ++i) sum += numbers[i];
  return sum;
}

/// The square of a difference, rounded once: a product of doubles is exact, and no compiler joins it to a sum.
inline float squared(float one, float other) {
  auto apart = static_cast<double>(one - other);
  return static_cast<float>(apart * apart);
}

/// The squared distance of two rows, in the order of numpy's einsum on x86-64: four lanes, four vectors a turn, the
/// last one first.
inline float squared_distance(const float* one, const float* other, std::size_t size) {
  std::array<float, 4> lanes{};
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16)
    for (std::size_t j = i + 16; j > i; j -= 4)
      for (std::size_t lane = 0; lane < 4; ++lane) lanes[lane] += squared(one[j - 4 + lane], other[j - 4 + lane]);
  for (; i < size; ++i) lanes[i % 4] += squared(one[i], other[i]);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

/// The sum of the variances of the numbers of latents [1, T, D], in single floats.
inline double spread_of(const Floats& latents) {
  auto rows = static_cast<float>(latents.shape[1]);
  std::vector<float> means(latents.shape[2]), squares(latents.shape[2]);
  for (std::size_t i = 0; i < latents.values.size(); ++i) means[i % means.size()] += latents.values[i];
  for (float& mean : means) mean /= rows;
  for (std::size_t i = 0; i < latents.values.size(); ++i)
    squares[i % means.size()] += squared(latents.values[i], means[i % means.size()]);
  for (float& square : squares) square /= rows;
  return static_cast<double>(pairwise_sum(squares.data(), squares.size()));
}

constexpr double kLowestPrice = 1e-6, kHighestPrice = 10;

/// What each stage count of each frame costs, [B, stages, T]: its error, of the first codebook's spread, and its bits.
struct Costs {
  Array3<double> errors, bits;

  /// The best stage counts at a price of a bit: of least error + price * bits.
  Counts counts(double price) const {
    Counts found(1, errors.shape[0], errors.shape[2]);
    for (std::size_t b = 0; b < errors.shape[0]; ++b)
      for (std::size_t t = 0; t < errors.shape[2]; ++t) {
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t n = 0; n < errors.shape[1]; ++n) {
          double cost = errors(b, n, t) + price * bits(b, n, t);
          if (cost < least) least = cost, found(0, b, t) = n + 1;
        }
      }
    return found;
  }

  /// What frames, or those that are named, take with these stage counts.
  double bits_of(const Counts& counts, const std::function<bool(std::size_t)>& named = nullptr) const {
    std::vector<double> chosen;
    for (std::size_t b = 0; b < counts.shape[1]; ++b)
      for (std::size_t t = 0; t < counts.shape[2]; ++t)
        if (!named || named(t)) chosen.push_back(bits(b, counts(0, b, t) - 1, t));
    constexpr double kCountBits = 1.4;  // that saying a frame's count takes, in the mean
    return pairwise_sum(chosen.data(), chosen.size()) + kCountBits * static_cast<double>(chosen.size());
  }

  /// The lowest price at which all frames take no more than so many bits; the highest where none does.
  double price(double wanted) const {
    double low = kLowestPrice, high = kHighestPrice;
    if (bits_of(counts(low)) <= wanted) return low;
    for (int round = 0; round < 40; ++round) {
      double middle = std::sqrt(low * high);
      (bits_of(counts(middle)) <= wanted ? high : low) = middle;
    }
    return high;
  }
};

/// Some frames of latents [B, T, D], as those of one stream.
inline Floats frames_at(const Floats& latents, const std::vector<std::size_t>& places) {
  std::size_t size = latents.shape[2];
  Floats found(1, places.size(), size);
  for (std::size_t i = 0; i < places.size(); ++i)
    std::copy_n(latents.values.data() + places[i] * size, size, &found(0, i, 0));
  return found;
}

/// Where so many stages are asked for, of counts [1, B, T].
template <class Wanted>
std::vector<std::size_t> places_where(const Counts& counts, Wanted wanted) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < counts.values.size(); ++i)
    if (wanted(i)) places.push_back(i);
  return places;
}

/// Puts codes [1, lines, N] where their frames are; stages that they lack are missing there.
inline void put_codes(Codes& codes, const std::vector<std::size_t>& places, const Codes& found) {
  std::size_t frames = codes.shape[2];
  for (std::size_t i = 0; i < places.size(); ++i)
    for (std::size_t line = 0; line < codes.shape[1]; ++line)
      codes(places[i] / frames, line, places[i] % frames) = line < found.shape[1] ? found(0, line, i) : kMissing;
}

/// Codes of latents [B, T, D] at the stage counts that each call asks for. What was found once is kept for the next.
class Search {
 public:
  Search(const Sessions& sessions, std::size_t paths, Floats latents)
      : sessions_(sessions), paths_(paths), latents_(std::move(latents)) {
    const Manifest& m = sessions.manifest;
    counts_ = Counts(1, latents_.shape[0], latents_.shape[1]);
    codes_ = Codes(latents_.shape[0], m.layout.lines(m.max_stages), latents_.shape[1], kMissing);
  }

  /// Codes [B, lines, T], each frame searched for its count; -1 below it, and where the count is 0.
  Codes codes(const Counts& counts) {
    const Layout& layout = sessions_.manifest.layout;
    std::size_t most = *std::max_element(counts.values.begin(), counts.values.end()), frames = counts.shape[2];
    for (std::size_t n = 1; n <= most; ++n) {
      auto places =
          places_where(counts, [&](std::size_t i) { return counts.values[i] == n && counts_.values[i] != n; });
      if (places.empty()) continue;
      put_codes(codes_, places, sessions_.quantize(frames_at(latents_, places), n, paths_));
      for (std::size_t place : places) counts_.values[place] = n;
    }
    Codes found = codes_.part(1, 0, layout.lines(most));
    put_codes(found, places_where(counts, [&](std::size_t i) { return !counts.values[i]; }), Codes(1, 0, frames));
    return found;
  }

 private:
  const Sessions& sessions_;
  std::size_t paths_;
  Floats latents_;
  Counts counts_;  // of what was found
  Codes codes_;
};

/// Which frame gets how many stages, so that the bits go where they take most error away.
class VariableRate {
 public:
  VariableRate(std::shared_ptr<const Sessions> sessions, CodeCoder coder, std::size_t paths)
      : sessions_(std::move(sessions)), coder_(std::move(coder)), paths_(paths) {
    const Manifest& m = sessions_->manifest;
    Codes codes(1, m.layout.lines(1), m.codebook_size);
    for (std::size_t line = m.layout.side; line < codes.shape[1]; ++line)
      for (std::size_t i = 0; i < m.codebook_size; ++i) codes(0, line, i) = static_cast<std::int64_t>(i);
    spread_ = spread_of(sessions_->latents(codes));
  }

  const Sessions& sessions() const { return *sessions_; }
  const CodeCoder& coder() const { return coder_; }
  Search search(const Floats& latents) const { return Search(*sessions_, paths_, latents); }

  /// The costs of latents [B, T, D], whose codes are told in chunks of so many frames: those of the codes that one path
  /// finds. Where few frames will have more than half of the stages, `price_of` tells what a bit will cost, given rough
  /// costs: those that will not are searched no further, but by two paths, since early stages gain more by that.
  Costs costs(const Floats& latents, std::size_t chunk_frames,
              const std::function<double(const Costs&)>& price_of = nullptr) const {
    const Manifest& m = sessions_->manifest;
    if (!price_of || m.max_stages == 1) {
      Codes codes = found(latents, m.max_stages, 1);
      return {errors(latents, codes), bits(codes, chunk_frames)};
    }
    std::size_t half = m.max_stages / 2, frames = latents.shape[1];
    Codes codes = found(latents, half, 2);
    Costs rough{errors(latents, codes), even_bits(latents, half, kLow)};
    Counts counts = rough.counts(price_of(rough));
    auto deep = places_where(counts, [&](std::size_t i) { return counts.values[i] == half; });
    codes.append(1, Codes(codes.shape[0], m.layout.lines(m.max_stages) - codes.shape[1], frames, kMissing));
    Array3<double> all = rough.errors;
    all.append(1, Array3<double>(codes.shape[0], m.max_stages - half, frames, std::numeric_limits<double>::infinity()));
    if (!deep.empty()) {
      Floats there = frames_at(latents, deep);
      Codes further = found(there, m.max_stages, 1);
      Array3<double> after = errors(there, further);
      put_codes(codes, deep, further);
      for (std::size_t i = 0; i < deep.size(); ++i)
        for (std::size_t n = 0; n < m.max_stages; ++n) all(deep[i] / frames, n, deep[i] % frames) = after(0, n, i);
    }
    return {std::move(all), bits(codes, chunk_frames)};
  }

  /// The same where all codes take their bits: less work, and almost the same choice.
  Costs even_costs(const Floats& latents) const {
    std::size_t stages = sessions_->manifest.max_stages;
    return {errors(latents, found(latents, stages, 1)), even_bits(latents, stages, 1)};
  }

 private:
  static constexpr double kLow = 0.7;               // of bits at fixed width, what codes take, or a little less
  static constexpr std::size_t kErrorFrames = 256;  // whose errors are found in one go

  std::shared_ptr<const Sessions> sessions_;
  CodeCoder coder_;
  std::size_t paths_;  // of the search for the codes that are kept
  double spread_;      // of the first codebook, a measure of the latents of any codec

  Codes found(const Floats& latents, std::size_t stages, std::size_t paths) const {
    return sessions_->quantize(latents, stages, std::min(paths, sessions_->manifest.max_paths));
  }

  Array3<double> even_bits(const Floats& latents, std::size_t stages, double factor) const {
    const Manifest& m = sessions_->manifest;
    Array3<double> found(latents.shape[0], stages, latents.shape[1]);
    for (std::size_t b = 0; b < found.shape[0]; ++b)
      for (std::size_t n = 0; n < stages; ++n)
        for (std::size_t t = 0; t < found.shape[2]; ++t)
          found(b, n, t) = factor * static_cast<double>(m.code_bits() * m.layout.codes(n + 1));
    return found;
  }

  /// The error after each stage of codes, [B, stages, T].
  Array3<double> errors(const Floats& latents, const Codes& codes) const {
    const Layout& layout = sessions_->manifest.layout;
    Array3<double> all(codes.shape[0], layout.stages(codes.shape[1]), codes.shape[2]);
    for (std::size_t first = 0; first < all.shape[2]; first += kErrorFrames) {
      Codes part = codes.part(2, first, std::min(first + kErrorFrames, all.shape[2]));
      for (std::size_t n = 0; n < all.shape[1]; ++n) {
        Floats made = sessions_->latents(part.part(1, 0, layout.lines(n + 1)));
        for (std::size_t b = 0; b < all.shape[0]; ++b)
          for (std::size_t t = 0; t < part.shape[2]; ++t) {
            float error = squared_distance(&made(b, t, 0), &latents(b, first + t, 0), made.shape[2]);
            all(b, n, first + t) = static_cast<double>(error) / spread_;
          }
      }
    }
    return all;
  }

  /// Bits up to each stage, [B, stages, T], of codes that are told in chunks.
  Array3<double> bits(const Codes& codes, std::size_t chunk_frames) const {
    Array3<double> all(codes.shape[0], sessions_->manifest.layout.stages(codes.shape[1]), 0);
    for (std::size_t first = 0; first < codes.shape[2]; first += chunk_frames)
      all.append(2, coder_.bits(codes.part(2, first, std::min(first + chunk_frames, codes.shape[2]))));
    for (std::size_t b = 0; b < all.shape[0]; ++b)
      for (std::size_t n = 1; n < all.shape[1]; ++n)
        for (std::size_t t = 0; t < all.shape[2]; ++t) all(b, n, t) += all(b, n - 1, t);
    return all;
  }
};

/// The price of a bit by which a stream holds a mean bitrate, from what it took so far.
struct PriceControl {
  double debt = 0;             // seconds of the wanted bitrate that were taken too much
  double level = std::log(6);  // price of a bit of speech, times the square of the bits wanted a frame

  /// Of the packet to come, where `wanted` bits a frame are.
  double price(double wanted) const {
    return std::clamp(std::exp(level + 0.7 * debt) / (wanted * wanted), kLowestPrice, kHighestPrice);
  }
  /// A packet of so many seconds took so many bits, and should have taken `wanted`.
  void take(double bits, double wanted, double seconds) {
    constexpr double kMostDebt = 1.5;  // seconds
    double next = debt + (bits / wanted - 1) * seconds;
    debt = std::clamp(next, -kMostDebt, kMostDebt);
    if (debt == next) level += 0.08 * debt * seconds;  // else the price can do no more, as in long silence
  }
};

/// Latents [streams, T, D] to codes of packets with a stage count for each frame; `control` goes on.
inline Codes encode_variable(const VariableRate& rate, const Floats& latents, std::size_t stages,
                             std::size_t frames_per_packet, PriceControl& control) {
  const Manifest& m = rate.sessions().manifest;
  PacketCoder coder(rate.coder(), m.max_stages);
  Codes codes(latents.shape[0], m.layout.lines(m.max_stages), 0);
  double seconds = static_cast<double>(m.frame_size) / static_cast<double>(m.sample_rate);
  double wanted = 1000 * m.bitrate(stages) * seconds;
  for (std::size_t first = 0; first < latents.shape[1]; first += frames_per_packet) {
    Floats part = latents.part(1, first, std::min(first + frames_per_packet, latents.shape[1]));
    Codes own = rate.search(part).codes(rate.even_costs(part).counts(control.price(wanted)));
    auto frames = static_cast<double>(part.shape[1]), streams = static_cast<double>(part.shape[0]);
    control.take(8.0 * static_cast<double>(coder.encode(own, std::nullopt).size()), wanted * streams * frames,
                 seconds * frames);
    own.append(1, Codes(own.shape[0], codes.shape[1] - own.shape[1], own.shape[2], kMissing));
    codes.append(2, own);
  }
  return codes;
}

}  // namespace detail

// --------------------------------------------------------------------------------------------------- encoder streams

struct EncoderOptions {
  int stages = 0;  // 0: those of 6 kbps where possible, else all
  std::size_t channels = 1;
  std::size_t frames_per_packet = 1;
  int redundancy = 0;  // stages of its predecessor that each packet repeats
  Effort effort = Effort::live;
  bool after_silence = false;  // codecs that look ahead give a frame for each at once, as if silence had come before
  bool variable = false;       // frames get the stages their sound needs; the mean of coded packets is the bitrate
};

/// Turns audio blocks of any length into packets; however it is cut, the codes are those of the whole clip. Belongs to
/// one thread at a time. `Codec::encoder_stream` makes one.
class EncoderStream {
 public:
  EncoderStream(std::shared_ptr<const detail::Sessions> sessions, const EncoderOptions& options,
                std::shared_ptr<const detail::VariableRate> variable = nullptr)
      : sessions_(std::move(sessions)), options_(options), variable_(std::move(variable)) {
    detail::check_channels(options.channels);
    if (options.frames_per_packet < 1 || options.frames_per_packet > kMaxFrames)
      detail::fail(Error::Kind::bitrate, "frames_per_packet must be 1 to ", kMaxFrames, ", not ",
                   options.frames_per_packet);
    set_stages(options.stages ? options.stages : static_cast<int>(manifest().default_stages()));
    set_redundancy(options.redundancy);
    reset();
  }

  std::size_t stages() const { return stages_; }
  /// From the next packet on.
  void set_stages(int stages) { stages_ = manifest().stages(stages); }
  std::size_t redundancy() const { return redundancy_; }
  /// From the next packet on; 0 for none.
  void set_redundancy(int stages) { redundancy_ = stages ? manifest().stages(stages) : 0; }

  /// Forget all audio: the next block begins a new stream. Packets are counted on, so that decoders follow.
  void reset() {
    const Manifest& m = manifest();
    std::size_t streams = m.streams(options_.channels);
    control_ = {};
    state_ = sessions_->zero_state(detail::encoder, streams);
    rest_ = Audio(options_.channels, 0);
    samples_ = frames_ = silent_frames_ = 0;
    previous_.reset();
    if (options_.after_silence && m.held()) {
      silent_frames_ = m.encoder_start;
      codes_of(Floats(streams, m.channels, silent_frames_ * m.frame_size), false);
    }
  }

  /// The packets that are full now. After an error the stream is as it was.
  std::vector<Packet> push(const Audio& block) {
    Audio x = detail::as_audio(block);
    if (x.channels != options_.channels)
      detail::fail(Error::Kind::audio, "a block must be [", options_.channels, ", samples], not [", x.channels, ", ",
                   x.samples, "]");
    std::size_t samples = x.samples;
    if (rest_.samples) {
      Audio joined = rest_;
      joined.append(x);
      x = std::move(joined);
    }
    std::size_t whole = ready(x.samples / manifest().frame_size) * manifest().frame_size;
    auto packets = encode(x, whole, false);
    rest_ = x.part(whole, x.samples);
    samples_ += samples;
    return packets;
  }

  /// The same of one channel, or of channel behind channel.
  std::vector<Packet> push(const float* block, std::size_t samples) {
    std::vector<float> values(block, block + options_.channels * samples);
    return push(Audio(options_.channels, samples, std::move(values)));
  }

  /// End the stream: the packets that remain, zeros after the last sample, and a stream ready for new audio.
  std::vector<Packet> flush() {
    std::size_t samples = (manifest().frames(samples_) - frames_) * manifest().frame_size;
    auto packets = encode(rest_, samples, true);
    reset();
    return packets;
  }

 private:
  std::shared_ptr<const detail::Sessions> sessions_;
  EncoderOptions options_;
  std::shared_ptr<const detail::VariableRate> variable_;  // nothing at a fixed stage count
  detail::PriceControl control_;
  std::size_t stages_ = 1, redundancy_ = 0;
  Floats state_;
  Audio rest_;                                                // samples short of a packet
  std::size_t samples_ = 0, frames_ = 0, silent_frames_ = 0;  // that went in
  std::uint16_t sequence_ = 0;     // never begins anew: a decoder would take the packets for late ones
  std::optional<Codes> previous_;  // codes of the last packet

  const Manifest& manifest() const { return sessions_->manifest; }

  /// Of so many whole frames, those to encode now: enough for a first call, and such that packets are full.
  std::size_t ready(std::size_t frames) const {
    bool started = frames_ || silent_frames_;
    std::size_t size = options_.frames_per_packet, back = started ? 0 : manifest().encoder_lookahead;
    std::size_t count = frames < back ? 0 : (frames - back) / size * size + back;
    return started || count >= manifest().encoder_start ? count : 0;
  }

  /// Encode the first samples of audio, which are whole frames; zeros follow where it has fewer.
  std::vector<Packet> encode(const Audio& audio, std::size_t samples, bool last) {
    const Manifest& m = manifest();
    std::vector<Packet> packets;
    if (!samples && !(last && frames_ && sessions_->looks_ahead(detail::encoder))) return packets;
    Codes codes = codes_of(detail::grouped(audio, m.channels, samples), last);
    for (std::size_t first = 0; first < codes.shape[2]; first += options_.frames_per_packet) {
      Packet packet{sequence_++, codes.part(2, first, std::min(first + options_.frames_per_packet, codes.shape[2])),
                    std::nullopt, m.layout};
      if (variable_) packet.codes = m.layout.trimmed(packet.codes);
      if (redundancy_ && previous_)
        packet.previous =
            m.layout.trimmed(previous_->part(1, 0, std::min(m.layout.lines(redundancy_), previous_->shape[1])));
      previous_ = packet.codes;
      packets.push_back(std::move(packet));
    }
    frames_ += samples / m.frame_size;
    return packets;
  }

  /// The codes of audio, with which the state goes on.
  Codes codes_of(const Floats& audio, bool last) {
    if (!variable_) return sessions_->encode(audio, state_, stages_, manifest().paths(options_.effort), last);
    Floats next = state_;
    Floats latents = sessions_->analyze(audio, next, last);
    detail::PriceControl control = control_;
    Codes codes = detail::encode_variable(*variable_, latents, stages_, options_.frames_per_packet, control);
    state_ = std::move(next), control_ = control;  // now that nothing can fail any more
    return codes;
  }
};

// --------------------------------------------------------------------------------------------------- decoder streams

/// Packets of a decoder stream since it began.
struct DecoderStatistics {
  std::size_t received = 0;   // decoded in their turn
  std::size_t concealed = 0;  // lost: the sound before them faded out, or turned into the sound after them
  std::size_t recovered = 0;  // lost: decoded from what the next packet repeats
  std::size_t late = 0;       // dropped, for they came after their turn or twice
};

/// Turns packets into audio, also where some are missing. Belongs to one thread at a time. `Codec::decoder_stream`
/// makes one.
///
/// Who reads packets in the order they come only calls `push`, which fills gaps. A player that must have sound now
/// holds one more packet back:  audio = packet ? decoder.push(*packet) : decoder.conceal(following);
class DecoderStream {
 public:
  DecoderStream(std::shared_ptr<const detail::Sessions> sessions, std::size_t channels, bool after_silence)
      : sessions_(std::move(sessions)), channels_(channels), after_silence_(after_silence) {
    detail::check_channels(channels);
    reset();
  }

  /// Forget all packets: the next one begins a new stream, whatever its sequence.
  void reset() {
    const Manifest& m = manifest();
    Memory fresh;
    fresh.state = sessions_->zero_state(detail::decoder, streams());
    if (m.decoder_start > 1 || sessions_->looks_ahead(detail::decoder)) fresh.held = Floats(streams(), 0, m.latent_dim);
    now_ = std::move(fresh);
    if (after_silence_ && now_.held) {
      Floats silence(streams(), m.decoder_start, m.latent_dim);
      for (std::size_t i = 0; i < silence.values.size(); ++i)
        silence.values[i] = sessions_->silence.values[i % m.latent_dim];
      synthesize(silence);
    }
  }

  std::size_t channels() const { return channels_; }
  /// Samples by which the output lags behind the encoder's input, both streams being after silence or neither.
  std::size_t delay() const { return manifest().delay() + (after_silence_ ? manifest().ahead() : 0); }
  const DecoderStatistics& statistics() const { return now_.statistics; }

  /// Decode a packet. After a gap in the sequence the audio of what is missing comes first, the last of it recovered
  /// where the packet repeats it. One that is late or comes twice gives no samples. After an error the stream is as it
  /// was.
  Audio push(const Packet& packet) {
    manifest().check_codes(packet.codes, streams());
    auto missing = missing_before(packet.sequence);
    if (!missing) {
      ++now_.statistics.late;
      return shaped(silent(0));
    }
    Unchanged guard(*this);
    Floats audio = bridge(packet, *missing);
    audio.append(2, decoded(packet.codes));
    now_.due = static_cast<std::uint16_t>(packet.sequence + 1);
    ++now_.statistics.received;
    guard.keep();
    return shaped(std::move(audio));
  }

  /// Answer for the packet that is due and did not come: recovered from the one `following`, where that is there and
  /// repeats it; else its sound turns into that of the following one, or fades out. `frames` of it: as many as the one
  /// before had, where nothing is said.
  Audio conceal(const Packet* following = nullptr, std::size_t frames = 0) {
    frames = frames ? frames : now_.packet_frames;
    if (frames > kMaxFrames) detail::fail_bitstream("a packet has 1 to ", kMaxFrames, " frames, not ", frames);
    Unchanged guard(*this);
    std::optional<Codes> previous;
    const Codes* after = nullptr;
    if (following) {
      auto before = static_cast<std::uint16_t>(following->sequence - 1);
      if (!now_.due || *now_.due == before) {
        manifest().check_codes(following->codes, streams());
        after = &following->codes;
        previous = checked_previous(*following);
        now_.due = before;
      }
    }
    Floats audio;
    if (previous) {
      audio = recover(*previous);
    } else {
      audio = concealed(frames, after);
      ++now_.statistics.concealed;
    }
    if (now_.due) now_.due = static_cast<std::uint16_t>(*now_.due + 1);
    guard.keep();
    return shaped(std::move(audio));
  }
  Audio conceal(const std::optional<Packet>& following, std::size_t frames = 0) {
    return conceal(following ? &*following : nullptr, frames);
  }

  /// End the stream: what is still held back, nothing for most bundles; then it is ready for a new one.
  Audio flush() {
    Unchanged guard(*this);
    Floats latents = now_.held ? *now_.held : Floats(streams(), 0, manifest().latent_dim);
    bool last = !now_.held || latents.shape[1] > 0;
    Floats audio = sessions_->synthesize(latents, now_.state, last);
    if (now_.clip) clip(audio);
    reset();
    guard.keep();
    return shaped(std::move(audio));
  }

 private:
  /// All that changes from call to call.
  struct Memory {
    Floats state;
    std::optional<Floats> held;        // latents too few for a first call; nothing once that was made
    std::optional<std::uint16_t> due;  // sequence of the next packet, once there was one
    std::optional<Codes> last;         // codes of the last packet that was not concealed
    std::size_t packet_frames = 1;     // in it
    std::size_t gap_frames = 0;        // concealed since
    bool clip = false;
    DecoderStatistics statistics;
  };

  /// Several graphs run for a gap; where one of them fails, the stream is as it was before the first.
  class Unchanged {
   public:
    explicit Unchanged(DecoderStream& stream) : stream_(stream), before_(stream.now_) {}
    ~Unchanged() {
      if (!kept_) stream_.now_ = std::move(before_);
    }
    Unchanged(const Unchanged&) = delete;
    Unchanged& operator=(const Unchanged&) = delete;
    void keep() { kept_ = true; }

   private:
    DecoderStream& stream_;
    Memory before_;
    bool kept_ = false;
  };

  static constexpr double kFadeSeconds = 0.1;  // from the last sound to silence
  static constexpr double kLongestGap = 10.0;  // seconds; a jump beyond it is no loss but another stream

  std::shared_ptr<const detail::Sessions> sessions_;
  std::size_t channels_;
  bool after_silence_;
  Memory now_;

  const Manifest& manifest() const { return sessions_->manifest; }
  std::size_t streams() const { return manifest().streams(channels_); }

  /// Packets lost before this one, nothing when it is late.
  std::optional<std::size_t> missing_before(std::uint16_t sequence) const {
    std::size_t ahead = now_.due ? static_cast<std::uint16_t>(sequence - *now_.due) : 0;
    if (!ahead) return 0;
    double longest = kLongestGap * manifest().frame_rate() / static_cast<double>(now_.packet_frames);
    if (ahead > 1 << 15)
      return static_cast<double>((1 << 16) - ahead) <= longest ? std::nullopt : std::optional<std::size_t>(0);
    return static_cast<double>(ahead) <= longest ? ahead : 0;
  }

  /// Audio of the packets that are missing before this one.
  Floats bridge(const Packet& packet, std::size_t missing) {
    if (!missing) return silent(0);
    auto previous = checked_previous(packet);
    std::size_t frames = now_.packet_frames, earlier = missing - 1;
    Floats audio = earlier ? concealed(earlier * frames, nullptr) : silent(0);
    audio.append(2, previous ? recover(*previous) : concealed(frames, &packet.codes));
    now_.statistics.concealed += earlier + (previous ? 0 : 1);
    return audio;
  }

  std::optional<Codes> checked_previous(const Packet& packet) const {
    if (packet.previous) manifest().check_codes(*packet.previous, streams());
    return packet.previous;
  }

  Floats decoded(const Codes& codes) {
    Floats audio = now_.held ? synthesize(sessions_->latents(codes)) : sessions_->decode(codes, now_.state, false);
    now_.last = codes;
    now_.packet_frames = codes.shape[2];
    now_.gap_frames = 0;
    // After a gap the decoder may overshoot; one that never lost anything gives the samples of the whole clip.
    if (now_.clip) clip(audio);
    return audio;
  }

  Floats recover(const Codes& codes) {
    ++now_.statistics.recovered;
    now_.clip = true;
    return decoded(codes);
  }

  /// Fade the last latents, into those of the following frame if it is there; the decoder network joins them.
  Floats concealed(std::size_t frames, const Codes* following) {
    if (!now_.last) return silent(frames);
    now_.clip = true;
    double length = kFadeSeconds * manifest().frame_rate();
    std::size_t end = now_.last->shape[2];
    Floats last = sessions_->latents(now_.last->part(2, end - 1, end));
    std::optional<Floats> after;
    if (following) after = sessions_->latents(following->part(2, 0, 1));
    Floats latents = detail::fade(last, sessions_->silence, now_.gap_frames, frames, length, after);
    now_.gap_frames += frames;
    Floats audio = synthesize(latents);
    clip(audio);
    return audio;
  }

  /// The next latents to audio; none before there are enough for a first call.
  Floats synthesize(Floats latents) {
    if (now_.held) {
      Floats all = *now_.held;
      all.append(1, latents);
      latents = std::move(all);
      if (latents.shape[1] < manifest().decoder_start) {
        now_.held = std::move(latents);
        return silent(0);
      }
    }
    Floats audio = sessions_->synthesize(latents, now_.state, false);
    now_.held.reset();
    return audio;
  }

  static void clip(Floats& audio) {
    for (float& sample : audio.values) sample = std::clamp(sample, -1.0f, 1.0f);
  }
  Floats silent(std::size_t frames) const {
    return Floats(streams(), manifest().channels, frames * manifest().frame_size);
  }
  Audio shaped(Floats audio) const { return detail::ungrouped(std::move(audio), channels_); }
};

// ----------------------------------------------------------------------------------------------------------- codec

/// A codec, immutable and safe to share between threads; copies share the networks. Make one with `load`.
class Codec {
 public:
  Codec(std::shared_ptr<const detail::Bundle> bundle, std::shared_ptr<const detail::Sessions> sessions)
      : bundle_(std::move(bundle)), sessions_(std::move(sessions)) {}

  const Manifest& manifest() const { return bundle_->manifest; }
  const std::filesystem::path& path() const { return bundle_->path; }
  /// 8 bytes that name this bundle's graphs in files, and those of its entropy model, zeros for none.
  const Fingerprint& fingerprint() const { return bundle_->fingerprint; }
  const Fingerprint& model_fingerprint() const { return bundle_->model_fingerprint; }
  /// What predicts its codes, as a `Reader` and a `Writer` take it.
  const std::shared_ptr<const detail::Predictor>& predictor() const { return bundle_->predictor; }
  std::size_t sample_rate() const { return manifest().sample_rate; }
  std::size_t frame_size() const { return manifest().frame_size; }
  std::size_t max_stages() const { return manifest().max_stages; }
  /// Samples by which a decoded stream lags behind the encoded one, to drop at its start.
  std::size_t delay() const { return manifest().delay(); }

  /// Encode a whole clip at the codec's rate: codes [streams, stages, frames].
  Codes encode(const Audio& audio, int stages, Effort effort = Effort::live) const {
    const Manifest& m = manifest();
    std::size_t count = m.stages(stages);
    if (audio.values.empty()) detail::fail(Error::Kind::audio, "audio must not be empty");
    Audio x = detail::as_audio(audio);
    Floats padded = detail::grouped(x, m.channels, m.frames(x.samples) * m.frame_size);
    Floats state = sessions_->zero_state(detail::encoder, padded.shape[0]);
    return sessions_->encode(padded, state, count, m.paths(effort), true);
  }

  /// Decode a whole clip, the delay removed: its length where it is known, else all that the codes hold. Channels are
  /// those of all streams.
  Audio decode(const Codes& codes, std::optional<std::size_t> samples = std::nullopt) const {
    const Manifest& m = manifest();
    m.check_codes(codes);
    std::size_t made = codes.shape[2] * m.frame_size, available = made > m.delay() ? made - m.delay() : 0;
    std::size_t wanted = samples.value_or(available);
    if (wanted > available)
      detail::fail(Error::Kind::audio, wanted, " samples were asked for, the codes hold ", available);
    Floats state = sessions_->zero_state(detail::decoder, codes.shape[0]);
    Floats audio = sessions_->decode(codes, state, true);
    std::size_t channels = audio.shape[0] * audio.shape[1], first = std::min(m.delay(), audio.shape[2]);
    return detail::ungrouped(std::move(audio), channels).part(first, first + wanted);
  }

  EncoderStream encoder_stream(const EncoderOptions& options = {}) const {
    return EncoderStream(streaming(), options,
                         options.variable ? variable_rate(options.channels, options.effort) : nullptr);
  }
  DecoderStream decoder_stream(std::size_t channels = 1, bool after_silence = false) const {
    return DecoderStream(streaming(), channels, after_silence);
  }

  /// How this codec's packets look as bytes.
  PacketFormat packet_format(std::size_t channels = 1) const {
    const Manifest& m = manifest();
    auto coder = std::make_shared<detail::PacketCoder>(code_coder(channels), m.max_stages);
    return PacketFormat(m.streams(channels), m.code_bits(), m.layout, std::move(coder));
  }
  /// How its codes become few bytes.
  CodeCoder code_coder(std::size_t channels = 1) const {
    return CodeCoder(manifest().layout, bundle_->predictor, manifest().streams(channels));
  }
  /// What gives each frame of latents as many stages as its sound needs.
  std::shared_ptr<const detail::VariableRate> variable_rate(std::size_t channels, Effort effort) const {
    return std::make_shared<detail::VariableRate>(streaming(), code_coder(channels), manifest().paths(effort));
  }

 private:
  std::shared_ptr<const detail::Bundle> bundle_;
  std::shared_ptr<const detail::Sessions> sessions_;

  /// The sessions, if they take any number of frames.
  const std::shared_ptr<const detail::Sessions>& streaming() const {
    if (manifest().call_frames > 1)
      detail::fail_bundle(manifest().name, ": its graphs take ", manifest().call_frames,
                          " frames a call, whole clips only; for streams and files take the bundle that it was made "
                          "from");
    return sessions_;
  }
};

/// Load a bundle from its folder and check it. One thread an operator is best for streams.
inline Codec load(const std::filesystem::path& folder, int threads = 1) {
  auto bundle = std::make_shared<detail::Bundle>(detail::read_bundle(folder));
  auto sessions = std::make_shared<const detail::Sessions>(*bundle, threads);
  for (Bytes& graph : bundle->graphs) Bytes().swap(graph);  // the sessions have them now
  return Codec(std::move(bundle), std::move(sessions));
}

// ------------------------------------------------------------------------------------------- whole clips as .edgc
// files

namespace detail {

/// The same audio, louder or quieter.
inline Audio amplified(Audio audio, double factor) {
  auto own = static_cast<float>(factor);
  if (own != 1)
    for (float& sample : audio.values) sample *= own;
  return audio;
}

}  // namespace detail

/// The header of a file of at most so many stages, with chunks of a second, of audio made louder by `gain` dB.
inline Header make_header(const Codec& codec, std::size_t sample_rate, std::size_t channels, std::size_t stages,
                          int gain = 0) {
  if (gain < 0 || gain > static_cast<int>(kMaxGain))
    detail::fail(Error::Kind::audio, "gain is 0 to ", kMaxGain, " whole dB, not ", gain);
  const Manifest& m = codec.manifest();
  Header header;
  header.fingerprint = codec.fingerprint();
  header.bundle = m.name;
  header.codec_rate = m.sample_rate, header.frame_size = m.frame_size, header.sample_rate = sample_rate;
  header.channels = channels, header.stages = stages, header.code_bits = m.code_bits();
  header.stream_channels = m.channels;
  header.layout = m.layout;
  header.model = codec.model_fingerprint();
  header.gain = static_cast<std::size_t>(gain);
  std::size_t frames = std::clamp<std::size_t>(m.sample_rate / m.frame_size, 1, kMaxFrames);
  while (frames > 1 && codec.packet_format(channels).payload_size(stages, frames) > kMaxPacket) frames /= 2;
  header.frames_per_packet = frames;
  header.check();
  return header;
}

/// Refuse a file that another bundle made, naming both.
inline void check_header(const Codec& codec, const Header& header) {
  const Manifest& m = codec.manifest();
  auto hex = [](const Fingerprint& name) { return detail::hex(View(name.data(), name.size())); };
  if (header.fingerprint != codec.fingerprint())
    detail::fail_bitstream("made with bundle '", header.bundle, "' (", hex(header.fingerprint), "), not with '", m.name,
                           "' (", hex(codec.fingerprint()), "); give the right one with --bundle");
  if (header.codec_rate != m.sample_rate || header.frame_size != m.frame_size || header.code_bits != m.code_bits() ||
      header.stream_channels != m.channels || !(header.layout == m.layout) || header.stages > m.max_stages)
    detail::fail_bitstream("the header contradicts bundle '", m.name, "'");
  if (header.has_model() && header.model != codec.model_fingerprint())
    detail::fail_bitstream("its codes are told by an entropy model (", hex(header.model), ") that bundle '", m.name,
                           "' does not have; give the bundle that made it with --bundle");
}

/// What a file is to take: a stage count for all frames, or the mean in kbps of each stream, or the price of a bit.
struct Rate {
  std::optional<std::size_t> stages;
  std::optional<double> kbps, price;

  /// So many stages in every frame.
  static Rate fixed(const Codec& codec, int stages) { return {codec.manifest().stages(stages), {}, {}}; }
  /// The mean of what is written, all heads counted, with as many stages in each frame as its sound needs.
  static Rate mean(const Codec& codec, double kbps) {
    constexpr double kSlack = 0.02;  // people round
    double least = codec.manifest().bitrate(1), most = codec.manifest().bitrate(codec.max_stages());
    if (!(least * (1 - kSlack) <= kbps && kbps <= most * (1 + kSlack)))
      detail::fail(Error::Kind::bitrate, codec.manifest().name, " cannot do ", kbps,
                   " kbps; possible: ", detail::text_of(least, 4), " to ", detail::text_of(most, 4));
    return {{}, kbps, {}};
  }
  /// 0 to 10, from one price of a bit to another: each step costs a quarter more.
  static Rate of_quality(double quality) {
    if (!(quality >= 0 && quality <= 10))
      detail::fail(Error::Kind::bitrate, "quality is 0 to 10 and goes with a variable rate, not ", quality);
    return {{}, {}, 0.03 * std::pow(0.0003 / 0.03, quality / 10)};
  }
  /// A mean of 6 kbps, or all stages where that is too much.
  static Rate usual(const Codec& codec) {
    const Manifest& m = codec.manifest();
    bool possible = m.bitrate(1) <= 6 && 6 <= m.bitrate(m.max_stages);
    return possible ? Rate{{}, 6.0, {}} : Rate{m.default_stages(), {}, {}};
  }
};

/// Writes audio at the codec's rate as an .edgc file: `push` as often as needed, then `finish`.
///
/// At a fixed stage count each second is written as it comes. Else one price of a bit holds for a window, of half a
/// minute, found so that the mean bitrate comes out; what one window takes too much, the next ones give back. `gain`, 0
/// to 60 dB, makes quiet audio louder: the header says by how much, and decoding takes it back.
class FileEncoder {
 public:
  FileEncoder(const Codec& codec, WriteBytes write, const Rate& rate, std::size_t channels = 1,
              Effort effort = Effort::fast, double window = 30, int gain = 0)
      : variable_(codec.variable_rate(channels, effort)),
        rate_(rate),
        writer_(std::move(write),
                make_header(codec, codec.sample_rate(), channels, rate.stages.value_or(codec.max_stages()), gain),
                codec.model_fingerprint() == detail::kNoModel ? nullptr : codec.predictor()),
        form_(header().chunk_format()),
        rest_(channels, 0) {
    const Manifest& m = manifest();
    state_ = variable_->sessions().zero_state(detail::encoder, header().streams());
    ahead_ = Floats(header().streams(), 0, m.latent_dim);
    auto size = static_cast<double>(header().frames_per_packet);
    double chunks = rate.stages ? 1 : std::max(1.0, std::nearbyint(window * m.frame_rate() / size));
    window_ = static_cast<std::size_t>(chunks) * header().frames_per_packet;
    bits_ = 8.0 * static_cast<double>(header().to_bytes().size() + detail::kEndSize);
  }

  void push(const Audio& block) {
    if (block.channels != header().channels)
      detail::fail(Error::Kind::audio, "a block must have ", header().channels, " channels, not ", block.channels);
    rest_.append(detail::as_audio(detail::amplified(block, header().amplitude())));
    samples_ += block.samples;
    std::size_t frames = rest_.samples / manifest().frame_size;
    if (!analyzed_ && frames < manifest().encoder_start) return;
    std::size_t whole = frames * manifest().frame_size;
    analyze(rest_.part(0, whole), whole, false);
    rest_ = rest_.part(whole, rest_.samples);
    take(false);
  }
  void finish() {
    std::size_t frames = manifest().frames(static_cast<std::size_t>(samples_)) - analyzed_;
    analyze(rest_, frames * manifest().frame_size, true);
    take(true);
    writer_.finish(samples_);
  }

 private:
  using Chunks = std::vector<detail::Chunk>;

  std::shared_ptr<const detail::VariableRate> variable_;
  Rate rate_;
  Writer writer_;
  detail::ChunkFormat form_;
  Audio rest_;            // samples short of a frame, or of a first call
  Floats state_, ahead_;  // of the encoder; latents [streams, T, D] short of a window
  std::size_t window_;    // frames
  std::uint64_t samples_ = 0;
  std::size_t analyzed_ = 0, chunks_ = 0, frames_ = 0;  // frames that went in, and that came out
  double bits_, bias_ = 1;                              // written; of bits written to bits foreseen

  const Header& header() const { return writer_.header(); }
  const Manifest& manifest() const { return variable_->sessions().manifest; }

  void analyze(const Audio& audio, std::size_t samples, bool last) {
    if (!samples && !(last && analyzed_)) return;
    Floats x = detail::grouped(audio, manifest().channels, samples);
    ahead_.append(1, variable_->sessions().analyze(x, state_, last));
    analyzed_ += samples / manifest().frame_size;
  }

  /// Write all windows that are full now, or all that there is.
  void take(bool last) {
    std::size_t first = 0, frames = ahead_.shape[1];
    for (; frames - first >= window_ || (last && first < frames); first = std::min(first + window_, frames)) {
      Chunks chunks = encode(ahead_.part(1, first, std::min(first + window_, frames)));
      for (const detail::Chunk& chunk : chunks) writer_.write(chunk);
      chunks_ += chunks.size();
      bits_ += size(chunks);
    }
    ahead_ = ahead_.part(1, first, frames);
  }

  /// The chunks of one window [streams, T, D].
  Chunks encode(const Floats& latents) {
    frames_ += latents.shape[1];
    detail::Search search = variable_->search(latents);
    if (rate_.stages) return at(search, detail::Counts(1, latents.shape[0], latents.shape[1], *rate_.stages));
    std::function<double(const detail::Costs&)> price_of;
    if (is_shallow(latents)) price_of = [&](const detail::Costs& costs) { return price(costs); };
    detail::Costs costs = variable_->costs(latents, header().frames_per_packet, price_of);
    return rate_.price ? at(search, costs.counts(*rate_.price)) : within(search, costs);
  }

  /// Chunks that bring the mean of all so far to what is wanted, as near as stage counts can. What the stages of a cut
  /// frame take depends on the frames beside it, which were cut too, and another search finds other codes: some chunks
  /// tell how much more than foreseen all will take, and the price is found anew until that holds.
  Chunks within(detail::Search& search, const detail::Costs& costs) {
    if (!chunks_) bias_ = tried(search, costs, costs.counts(price(costs)));
    double aim = wanted();
    Chunks chunks;
    std::optional<detail::Counts> before;
    for (int turn = 0; turn < 3; ++turn) {
      detail::Counts counts = costs.counts(price(costs));
      if (before && counts == *before) break;
      chunks = at(search, counts);
      before = std::move(counts);
      if (std::abs(size(chunks) / aim - 1) < 0.015) break;  // near enough
      bias_ = size(chunks) / costs.bits_of(*before);
    }
    return chunks;
  }

  /// Whether few frames of a window will have more than half of the stages.
  bool is_shallow(const Floats& latents) const {
    if (rate_.price) return *rate_.price > 0.0035;  // of a bit, in speech of 0.3 of the bits of all stages
    std::size_t codes = latents.shape[0] * latents.shape[1] * header().layout.codes(header().stages);
    return wanted() < 0.3 * static_cast<double>(codes * header().code_bits);
  }

  /// What a bit costs in this window.
  double price(const detail::Costs& costs) const { return rate_.price ? *rate_.price : costs.price(wanted() / bias_); }

  /// The bits of this window that bring the mean of all so far to what is asked for.
  double wanted() const {
    double seconds = static_cast<double>(frames_ * header().frame_size) / static_cast<double>(header().codec_rate);
    return std::max(1.0, 1000 * *rate_.kbps * static_cast<double>(header().streams()) * seconds - bits_);
  }

  /// The bits of some chunks, spread over all, to those foreseen for these counts.
  double tried(detail::Search& search, const detail::Costs& costs, const detail::Counts& counts) const {
    constexpr std::size_t kProbes = 4;
    std::size_t each = header().frames_per_packet, whole = counts.shape[2] / each;
    if (whole < kProbes) return 1;
    std::set<std::size_t> probes;
    for (std::size_t i = 0; i < kProbes; ++i) probes.insert(i * whole / kProbes);
    auto probed = [&](std::size_t frame) { return probes.count(frame / each) > 0; };
    detail::Counts some = counts;
    for (std::size_t i = 0; i < some.values.size(); ++i)
      if (!probed(i % counts.shape[2])) some.values[i] = 0;
    Codes codes = search.codes(some);
    Chunks chunks;
    for (std::size_t i : probes) chunks.push_back(chunk(codes.part(2, i * each, (i + 1) * each), 0));
    return size(chunks) / costs.bits_of(counts, probed);
  }

  /// Chunks with these stage counts.
  Chunks at(detail::Search& search, const detail::Counts& counts) const {
    Codes codes = search.codes(counts);
    Chunks chunks;
    for (std::size_t first = 0; first < codes.shape[2]; first += header().frames_per_packet) {
      std::size_t end = std::min(first + header().frames_per_packet, codes.shape[2]);
      chunks.push_back(chunk(codes.part(2, first, end), chunks_ + chunks.size()));
    }
    return chunks;
  }

  detail::Chunk chunk(Codes codes, std::size_t number) const {
    return writer_.coder().encode(
        Packet{static_cast<std::uint16_t>(number & 0xFFFF), std::move(codes), std::nullopt, header().layout});
  }

  double size(const Chunks& chunks) const {
    std::size_t bytes = 0;
    for (const detail::Chunk& each : chunks) bytes += form_.size(each);
    return 8.0 * static_cast<double>(bytes);
  }
};

/// The bytes of an .edgc file of audio at the codec's rate.
inline Bytes encode_clip(const Codec& codec, const Audio& audio, const Rate& rate, Effort effort = Effort::fast,
                         double window = 30, int gain = 0) {
  if (audio.values.empty()) detail::fail(Error::Kind::audio, "audio must be [channels, samples] and not empty");
  Bytes data;
  FileEncoder encoder(
      codec, [&](View more) { detail::put_bytes(data, more); }, rate, audio.channels, effort, window, gain);
  encoder.push(audio);
  encoder.finish();
  return data;
}

/// What `decode_file` found besides sound.
struct FileReport {
  std::optional<std::uint64_t> samples;  // per channel at the file's rate, where the end record says so
  std::vector<std::string> damage;       // place by place; lost chunks were concealed
};

/// Hands on the sound of an .edgc file block by block, **at the rate of the codec**, the delay removed and a gain taken
/// back; what is lost is concealed, and as long as it was. Up to the length that the end record says, if it does.
inline FileReport decode_file(const Codec& codec, Reader& reader, const std::function<void(const Audio&)>& take) {
  const Header& header = reader.header();
  check_header(codec, header);
  DecoderStream stream = codec.decoder_stream(header.channels);
  std::size_t skip = codec.delay();
  std::uint64_t given = 0;
  std::vector<Audio> pending;  // of the packet at hand: after the last one, the end record says how much is sound
  auto hand_on = [&](std::optional<std::uint64_t> end) {
    for (Audio& block : pending) {
      std::size_t left = end ? static_cast<std::size_t>(std::max(*end, given) - given) : block.samples;
      if (block.samples > left) block = block.part(0, left);
      given += block.samples;
      if (block.samples) take(block);
    }
    pending.clear();
  };
  auto add = [&](Audio block) {
    std::size_t cut = std::min(skip, block.samples);
    skip -= cut;
    if (cut) block = block.part(cut, block.samples);
    if (block.samples) pending.push_back(detail::amplified(std::move(block), 1 / header.amplitude()));
  };
  std::uint16_t due = 0;
  bool begun = false;
  while (auto packet = reader.next(codec.predictor())) {
    hand_on(std::nullopt);
    for (std::size_t left = static_cast<std::uint16_t>(packet->sequence - due); left > 0; --left)
      add(stream.conceal(left == 1 ? &*packet : nullptr, header.frames_per_packet));
    add(stream.push(*packet));
    due = static_cast<std::uint16_t>(packet->sequence + 1);
    begun = true;
  }
  for (std::size_t left = reader.lost_at_end; left > 0; --left) add(stream.conceal(nullptr, header.frames_per_packet));
  if (begun) add(stream.flush());
  std::optional<std::uint64_t> end = reader.samples;
  if (end) end = (*end * header.codec_rate + header.sample_rate - 1) / header.sample_rate;
  hand_on(end);
  return {reader.samples, reader.damage};
}

/// Audio of the bytes of a sound .edgc file, at the rate of the codec.
inline Audio decode_clip(const Codec& codec, View data) {
  Reader reader(data);
  Audio audio(reader.header().channels, 0);
  FileReport report = decode_file(codec, reader, [&](const Audio& block) { audio.append(block); });
  if (!report.damage.empty()) detail::fail_bitstream(report.damage[0]);
  if (!report.samples) detail::fail_bitstream("no end record");
  return audio;
}

// --------------------------------------------------------------------------------------------------- golden vectors

/// One stage count of a bundle's golden vectors.
struct GoldenResult {
  std::size_t stages = 0;
  double equal_codes = 0, decoded_error = 0;  // a fraction; the largest difference, from golden codes
  bool coded_equal = true;                    // what the entropy model makes of the golden codes

  bool passed() const { return coded_equal && equal_codes >= 0.99 && decoded_error <= 5e-3; }
};

/// Encode and decode the golden vectors of a codec's bundle, at every stage count that they hold.
inline std::vector<GoldenResult> verify(const Codec& codec) {
  const Manifest& m = codec.manifest();
  std::string where = (codec.path() / m.golden.file).string();
  Bytes data = detail::read_entry(codec.path(), "golden", m.golden);
  std::map<std::string, detail::NpyArray> arrays;
  auto number_of = [](const std::string& name) {
    std::size_t line = name.find('_');
    std::string digits = line == std::string::npos ? "" : name.substr(line + 1);
    bool is_number = !digits.empty() && digits.size() <= 3 && digits[0] != '0' &&
                     digits.find_first_not_of("0123456789") == std::string::npos;
    static const std::set<std::string> kinds = {"codes", "decoded", "intervals", "coded", "ends"};
    return is_number && kinds.count(name.substr(0, line)) ? std::stoul(digits) : 0;
  };
  try {
    arrays = detail::read_npz(data, detail::kNpzArrayBytes, [&](const std::string& name) {
      if (name != "audio" && !number_of(name))
        detail::fail_bundle(where, ": holds '", detail::one_line(name).substr(0, 60), "', which is no golden vector");
      return true;
    });
  } catch (const Error& error) {
    if (error.kind() == Error::Kind::bundle) throw;
    detail::fail_bundle(where, ": not golden vectors: ", error.what());
  }
  using Shape = std::vector<std::size_t>;
  auto array = [&](const std::string& name, const std::string& type, const Shape& shape) {
    auto found = arrays.find(name);
    if (found == arrays.end() || found->second.type != type || found->second.shape != shape)
      detail::fail_bundle(where, ": ", name, " must be ", type, " ", detail::listed(shape));
    return found->second;
  };
  auto found = arrays.find("audio");
  if (found == arrays.end() || found->second.shape.size() != 3 || found->second.data.empty())
    detail::fail_bundle(where, ": no float32 audio [1, ", m.channels, ", samples]");
  std::size_t samples = found->second.shape[2], frames = m.frames(samples);
  Shape audio_shape = {1, m.channels, samples};
  Audio audio(m.channels, samples, array("audio", "<f4", audio_shape).numbers<float>());
  std::set<std::size_t> counts;
  for (const auto& each : arrays)
    if (each.first.rfind("codes_", 0) == 0) counts.insert(number_of(each.first));
  if (counts.empty()) detail::fail_bundle(where, ": no codes");
  std::vector<GoldenResult> results;
  for (std::size_t n : counts) {
    std::string suffix = "_" + std::to_string(n);
    std::size_t stages = m.stages(static_cast<long long>(n));
    Codes codes(1, m.layout.lines(stages), frames);
    codes.values = array("codes" + suffix, "<i8", {1, codes.shape[1], frames}).numbers<std::int64_t>();
    auto decoded = array("decoded" + suffix, "<f4", audio_shape).numbers<float>();
    Codes ours = codec.encode(audio, static_cast<int>(n));
    Audio again = codec.decode(codes, samples);
    GoldenResult result;
    result.stages = n;
    std::size_t equal = 0;
    for (std::size_t i = 0; i < codes.values.size(); ++i) equal += ours.values[i] == codes.values[i];
    result.equal_codes = static_cast<double>(equal) / static_cast<double>(codes.values.size());
    for (std::size_t i = 0; i < decoded.size(); ++i)
      result.decoded_error = std::max<double>(result.decoded_error, std::abs(again.values[i] - decoded[i]));
    if (arrays.count("coded" + suffix)) {
      CodeCoder coder = codec.code_coder();
      detail::Coded body = coder.encode(codes);
      std::vector<std::int32_t> ends(body.ends.begin(), body.ends.end()), told;
      for (const auto& each : coder.intervals(codes)) told.insert(told.end(), each.begin(), each.end());
      auto same = [&](const std::string& name, const std::string& type, const auto& numbers) {
        auto wanted = arrays.find(name + suffix);
        using T = typename std::decay_t<decltype(numbers)>::value_type;
        return wanted != arrays.end() && wanted->second.type == type && wanted->second.template numbers<T>() == numbers;
      };
      result.coded_equal = same("coded", "|u1", body.data) && same("ends", "<i4", ends) &&
                           same("intervals", "<i4", told) && coder.decode(body.data, stages, frames, false) == codes;
    }
    results.push_back(result);
  }
  return results;
}

}  // namespace edgecodec
