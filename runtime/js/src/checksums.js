/** The checksums of packets, chunks and files. */

/** CRC-16/CCITT-FALSE: polynomial 0x1021, begins with 0xFFFF. */
export function crc16(data, begin = 0, end = data.length) {
  let crc = 0xffff;
  for (let i = begin; i < end; i++) crc = ((crc << 8) & 0xffff) ^ CRC16[(crc >> 8) ^ data[i]];
  return crc;
}

/** The CRC-32 of zip; `before` is that of the bytes before these. */
export function crc32(data, before = 0) {
  let crc = ~before;
  for (let i = 0; i < data.length; i++) crc = (crc >>> 8) ^ CRC32[(crc ^ data[i]) & 0xff];
  return ~crc >>> 0;
}

const CRC16 = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = (crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0);
  return crc;
});

const CRC32 = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});
