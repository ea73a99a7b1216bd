// Does what Python asks of the C++ runtime: a JSON request a line, a JSON answer a line. Bytes and arrays are in hex.
#include <iostream>

#include "edgecodec.hpp"
#include "page_program.hpp"  // what the page has under "In a program"

namespace {

using namespace edgecodec;
using Json = nlohmann::json;

Bytes bytes_of(const Json& json) { return detail::from_hex(json.get<std::string>()); }
std::string hex_of(View data) { return detail::hex(data); }

template <class T>
std::vector<T> numbers_of(const Json& json) {
  Bytes data = bytes_of(json);
  std::vector<T> numbers(data.size() / sizeof(T));
  std::copy(data.begin(), data.end(), reinterpret_cast<std::uint8_t*>(numbers.data()));
  return numbers;
}

template <class T>
std::string hex_of_numbers(const std::vector<T>& numbers) {
  return hex_of(View(reinterpret_cast<const std::uint8_t*>(numbers.data()), numbers.size() * sizeof(T)));
}

Codes codes_of(const Json& json) {
  Codes codes;
  for (std::size_t i = 0; i < 3; ++i) codes.shape[i] = json["shape"][i].get<std::size_t>();
  codes.values = numbers_of<std::int64_t>(json["values"]);
  return codes;
}

Json json_of(const Codes& codes) { return {{"shape", codes.shape}, {"values", hex_of_numbers(codes.values)}}; }

Audio audio_of(const Json& json) {
  auto values = numbers_of<float>(json["values"]);
  std::size_t channels = json["channels"].get<std::size_t>(), samples = values.size() / channels;
  return Audio(channels, samples, std::move(values));
}

Json json_of(const Audio& audio) { return {{"channels", audio.channels}, {"values", hex_of_numbers(audio.values)}}; }

Packet packet_of(const Json& json, const Layout& layout) {
  Packet packet{json["sequence"].get<std::uint16_t>(), codes_of(json["codes"]), std::nullopt, layout};
  if (!json["previous"].is_null()) packet.previous = codes_of(json["previous"]);
  return packet;
}

Json json_of(const Packet& packet) {
  return {{"sequence", packet.sequence},
          {"codes", json_of(packet.codes)},
          {"previous", packet.previous ? json_of(*packet.previous) : Json()}};
}

Json json_of(const std::vector<Packet>& packets) {
  Json all = Json::array();
  for (const Packet& packet : packets) all.push_back(json_of(packet));
  return all;
}

Rate rate_of(const Codec& codec, const Json& ask) {
  if (ask.contains("kbps")) return Rate::mean(codec, ask["kbps"]);
  if (ask.contains("quality")) return Rate::of_quality(ask["quality"]);
  return ask.contains("stages") ? Rate::fixed(codec, ask["stages"]) : Rate::usual(codec);
}

Effort effort_of(const Json& json) {
  return json == "best" ? Effort::best : json == "fast" ? Effort::fast : Effort::live;
}

/// What the requests so far have made.
struct Desk {
  std::optional<Codec> codec;
  std::optional<EncoderStream> encoder;
  std::optional<DecoderStream> decoder;

  Json answer(const Json& ask) {
    std::string what = ask["do"];
    if (what == "load") {
      codec = load(ask["path"].get<std::string>());
      return hex_of(View(codec->fingerprint().data(), 8));
    }
    if (what == "manifest") return Manifest::from_json(ask["text"].get<std::string>()).name;
    if (what == "entropy") {
      auto model = detail::EntropyModel::read(bytes_of(ask["data"]), ask["stages"], ask["entries"]);
      return model->width;
    }
    if (what == "verify") {
      Json results = Json::array();
      for (const auto& r : verify(*codec)) results.push_back({r.stages, r.equal_codes, r.decoded_error, r.coded_equal});
      return results;
    }
    if (what == "encode")
      return json_of(codec->encode(audio_of(ask["audio"]), ask["stages"], effort_of(ask["effort"])));
    if (what == "decode") {
      std::optional<std::size_t> samples;
      if (!ask["samples"].is_null()) samples = ask["samples"].get<std::size_t>();
      return json_of(codec->decode(codes_of(ask["codes"]), samples));
    }
    if (what == "bitrate") return codec->manifest().stages_of_bitrate(ask["kbps"]);
    if (what == "external") return detail::OnnxFields::keeps_data_elsewhere(bytes_of(ask["model"]));
    if (what == "page") return call(ask["path"], audio_of(ask["audio"]));
    if (what == "sha256") {
      auto digest = detail::sha256(bytes_of(ask["data"]));
      return hex_of(View(digest.data(), digest.size()));
    }
    if (what.rfind("encoder", 0) == 0) return answer_encoder(what, ask);
    if (what.rfind("decoder", 0) == 0) return answer_decoder(what, ask);
    return what.rfind("packet", 0) == 0 ? answer_packet(what, ask) : answer_file(what, ask);
  }

  Json answer_encoder(const std::string& what, const Json& ask) {
    if (what == "encoder") {
      EncoderOptions options;
      options.stages = ask["stages"], options.channels = ask["channels"];
      options.frames_per_packet = ask["frames_per_packet"], options.redundancy = ask["redundancy"];
      options.effort = effort_of(ask["effort"]), options.after_silence = ask["after_silence"];
      options.variable = ask.value("variable", false);
      encoder = codec->encoder_stream(options);
    } else if (what == "encoder push") {
      return json_of(encoder->push(audio_of(ask["audio"])));
    } else if (what == "encoder flush") {
      return json_of(encoder->flush());
    } else if (what == "encoder stages") {
      encoder->set_stages(ask["stages"]);
    } else if (what == "encoder redundancy") {
      encoder->set_redundancy(ask["stages"]);
    } else {
      encoder->reset();
    }
    return nullptr;
  }

  Json answer_decoder(const std::string& what, const Json& ask) {
    const Layout& layout = codec->manifest().layout;
    if (what == "decoder") {
      decoder = codec->decoder_stream(ask["channels"], ask["after_silence"]);
      return decoder->delay();
    }
    if (what == "decoder push") return json_of(decoder->push(packet_of(ask["packet"], layout)));
    if (what == "decoder conceal") {
      std::optional<Packet> following;
      if (!ask["packet"].is_null()) following = packet_of(ask["packet"], layout);
      return json_of(decoder->conceal(following, ask["frames"].get<std::size_t>()));
    }
    if (what == "decoder flush") return json_of(decoder->flush());
    if (what == "decoder reset") decoder->reset();
    const DecoderStatistics& s = decoder->statistics();
    return {s.received, s.concealed, s.recovered, s.late};
  }

  Json answer_packet(const std::string& what, const Json& ask) {
    auto format = codec->packet_format(ask["channels"]);
    if (what == "packet write") return hex_of(format.to_bytes(packet_of(ask["packet"], codec->manifest().layout)));
    if (what == "packet read") return json_of(format.from_bytes(bytes_of(ask["data"])));
    return hex_of(format.truncate(bytes_of(ask["data"]), ask["stages"]));
  }

  Json answer_file(const std::string& what, const Json& ask) {
    if (what == "file encode")
      return hex_of(encode_clip(*codec, audio_of(ask["audio"]), rate_of(*codec, ask), effort_of(ask["effort"]),
                                ask.value("window", 30.0), ask.value("gain", 0)));
    Bytes data = bytes_of(ask["data"]);
    Reader reader{View(data)};
    if (what == "file write") return rewritten(reader, ask["told"]);
    if (what == "file read") {
      check_header(*codec, reader.header());
      Json packets = Json::array();
      while (auto packet = reader.next(codec->predictor())) packets.push_back(json_of(*packet));
      return {{"packets", packets},
              {"damage", reader.damage},
              {"lost", reader.lost_at_end},
              {"samples", reader.samples ? Json(*reader.samples) : Json()}};
    }
    Audio audio(reader.header().channels, 0);
    decode_file(*codec, reader, [&](const Audio& block) { audio.append(block); });
    return json_of(audio);
  }

  /// The file of a reader written anew.
  std::string rewritten(Reader& reader, bool told) {
    Bytes again;
    Writer writer([&](View more) { detail::put_bytes(again, more); }, reader.header(),
                  told ? codec->predictor() : nullptr);
    while (auto packet = reader.next(codec->predictor())) writer.write(*packet);
    writer.finish(reader.samples.value());
    return hex_of(again);
  }
};

const char* name_of(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::bundle:
      return "BundleError";
    case Error::Kind::bitstream:
      return "BitstreamError";
    case Error::Kind::bitrate:
      return "BitrateError";
    default:
      return "AudioError";
  }
}

}  // namespace

int main() {
  Desk desk;
  std::string line;
  while (std::getline(std::cin, line)) {
    Json answer;
    try {
      answer["answer"] = desk.answer(Json::parse(line));
    } catch (const Error& error) {
      answer = {{"error", name_of(error.kind())}, {"message", error.what()}};
    }
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }
}
