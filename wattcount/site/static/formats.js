/* Files that a browser cannot read by itself: Zstandard (RFC 8878), tar, and flat Parquet. All throw an Error with words for people. */
(() => {
  "use strict";
  const MOST_UNPACKED = 512 * 1024 * 1024; // bytes that a file may unpack to: beyond it a tab has no memory left

  // -- Zstandard

  const MAGIC = 0xfd2fb528, SKIPPED = 0x184d2a5; // of a frame; of a frame to skip, without its last digit
  const damaged = (what) => { throw new Error(`it is damaged: ${what}`); };
  const log2 = (value) => 31 - Math.clz32(value);
  const sums = (first, bits) => { const found = []; for (const one of bits) { found.push(first); first += 2 ** one; } return found; };
  const wide = (number, bits) => [...Array(number).fill(0), ...bits];
  const LITERAL_BITS = wide(16, [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]), LITERAL_BASE = sums(0, LITERAL_BITS);
  const MATCH_BITS = wide(32, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]), MATCH_BASE = sums(3, MATCH_BITS);

  /** An FSE table: by state its symbol, how many bits lead to the next state, and the least of these. */
  const fseTable = (frequencies, log) => {
    const size = 1 << log, symbols = new Uint8Array(size), next = [];
    let high = size;
    frequencies.forEach((one, symbol) => { if (one === -1) { symbols[--high] = symbol; next[symbol] = 1; } });
    const step = (size >> 1) + (size >> 3) + 3;
    let at = 0;
    frequencies.forEach((one, symbol) => {
      if (one <= 0) return;
      next[symbol] = one;
      for (let number = 0; number < one; number++) { symbols[at] = symbol; do at = (at + step) & (size - 1); while (at >= high); }
    });
    if (at) damaged("a table of states");
    const bits = new Uint8Array(size), base = new Uint16Array(size);
    for (let state = 0; state < size; state++) {
      const number = next[symbols[state]]++;
      bits[state] = log - log2(number);
      base[state] = (number << bits[state]) - size;
    }
    return { log, symbols, bits, base };
  };
  const ones = (number) => Array(number).fill(1);
  const USUAL = {
    literal: fseTable([4, 3, ...Array(11).fill(2), 1, 1, 1, ...Array(9).fill(2), 3, 2, ...ones(5), -1, -1, -1, -1], 6),
    offset: fseTable([...ones(6), 2, 2, 2, ...ones(15), -1, -1, -1, -1, -1], 5),
    match: fseTable([1, 4, 3, 2, 2, 2, 2, 2, 2, ...ones(37), ...Array(7).fill(-1)], 6),
  };

  /** `number` (at most 32) bits from bit `at` on, the lowest first; those before `from` and behind the end are 0. */
  const bitsAt = (bytes, from, at, number) => {
    if (number > 24) return bitsAt(bytes, from, at, 16) + 65536 * bitsAt(bytes, from, at + 16, number - 16);
    if (at < from) { const missing = Math.min(number, from - at); return (number > missing ? bitsAt(bytes, from, from, number - missing) : 0) * 2 ** missing; }
    const byte = at >>> 3;
    const word = bytes[byte] | (bytes[byte + 1] << 8) | (bytes[byte + 2] << 16) | (bytes[byte + 3] << 24);
    return (word >>> (at & 7)) & ((1 << number) - 1);
  };
  /** Reads bits from the end of bytes[begin..end) to its begin. */
  class Backward {
    constructor(bytes, begin, end) {
      if (end <= begin || !bytes[end - 1]) damaged("an empty stream");
      this.bytes = bytes;
      this.from = 8 * begin;
      this.at = 8 * (end - 1) + log2(bytes[end - 1]);
    }
    peek(number) { return bitsAt(this.bytes, this.from, this.at - number, number); }
    read(number) { if (!number) return 0; this.at -= number; return bitsAt(this.bytes, this.from, this.at, number); }
    get over() { return this.at < this.from; }
  }

  /** (table, where it ends) of a table that stands at `at`. */
  const readTable = (bytes, at, most) => {
    let bit = 8 * at;
    const read = (number) => { const value = bitsAt(bytes, 0, bit, number); bit += number; return value; };
    const log = read(4) + 5;
    if (log > most) damaged("a table of states that is too large");
    let left = 1 << log;
    const frequencies = [];
    while (left > 0) {
      const width = log2(left + 1) + 1;
      let value = read(width);
      const lower = (1 << (width - 1)) - 1, threshold = (1 << width) - 2 - left;
      if ((value & lower) < threshold) { bit -= 1; value &= lower; } else if (value > lower) value -= threshold;
      const one = value - 1;
      left -= Math.abs(one);
      frequencies.push(one);
      if (one === 0) for (let repeat = 3; repeat === 3;) { repeat = read(2); for (let number = 0; number < repeat; number++) frequencies.push(0); }
      if (frequencies.length > 256) damaged("a table of states");
    }
    if (left < 0) damaged("a table of states");
    return [fseTable(frequencies, log), (bit + 7) >>> 3];
  };

  /** (Huffman table, where it ends). */
  const readHuffman = (bytes, at) => {
    const head = bytes[at++], weights = [];
    let end = at + head;
    if (head < 128) {
      const [table, begin] = readTable(bytes, at, 6);
      const stream = new Backward(bytes, begin, end);
      const states = [stream.read(table.log), stream.read(table.log)];
      for (let turn = 0; ; turn ^= 1) {
        weights.push(table.symbols[states[turn]]);
        states[turn] = table.base[states[turn]] + stream.read(table.bits[states[turn]]);
        if (stream.over) { weights.push(table.symbols[states[turn ^ 1]]); break; }
        if (weights.length > 255) damaged("a table of signs");
      }
    } else {
      for (let number = 0; number < head - 127; number++) weights.push(number & 1 ? bytes[at + (number >> 1)] & 15 : bytes[at + (number >> 1)] >> 4);
      end = at + ((head - 126) >> 1);
    }
    const sum = weights.reduce((all, weight) => all + (weight ? 1 << (weight - 1) : 0), 0);
    if (!sum) damaged("a table of signs");
    const most = log2(sum) + 1, rest = (1 << most) - sum;
    if (rest & (rest - 1) || most > 11) damaged("a table of signs");
    weights.push(log2(rest) + 1);
    const symbols = new Uint8Array(1 << most), widths = new Uint8Array(1 << most);
    let place = 0;
    for (let weight = 1; weight <= most; weight++) weights.forEach((one, symbol) => {
      if (one !== weight) return;
      symbols.fill(symbol, place, place + (1 << (weight - 1)));
      widths.fill(most + 1 - weight, place, place += 1 << (weight - 1));
    });
    return [{ most, symbols, widths }, end];
  };
  const huffman = ({ most, symbols, widths }, bytes, begin, end, out) => {
    const stream = new Backward(bytes, begin, end);
    for (let at = 0; at < out.length; at++) { const sign = stream.peek(most); out[at] = symbols[sign]; stream.at -= widths[sign]; }
    if (stream.at !== stream.from) damaged("a stream of signs");
  };

  /** (literals, where they end); `kept.huffman` is the table that a later block may use again. */
  const readLiterals = (bytes, at, kept) => {
    const kind = bytes[at] & 3, form = (bytes[at] >> 2) & 3;
    const [b0, b1, b2, b3, b4] = bytes.subarray(at, at + 5);
    if (kind < 2) {
      const head = form & 1 ? (form >> 1) + 2 : 1;
      const size = head === 1 ? b0 >> 3 : (b0 >> 4) + (b1 << 4) + (head === 3 ? b2 << 12 : 0);
      at += head;
      return kind ? [new Uint8Array(size).fill(bytes[at]), at + 1] : [bytes.subarray(at, at + size), at + size];
    }
    const [head, size, packed] = form < 2 ? [3, (b0 >> 4) | ((b1 & 63) << 4), (b1 >> 6) | (b2 << 2)] : form === 2 ? [4, (b0 >> 4) | (b1 << 4) | ((b2 & 3) << 12), (b2 >> 2) | (b3 << 6)] : [5, (b0 >> 4) | (b1 << 4) | ((b2 & 63) << 12), (b2 >> 6) | (b3 << 2) | (b4 << 10)];
    at += head;
    const end = at + packed, out = new Uint8Array(size);
    if (kind === 2) [kept.huffman, at] = readHuffman(bytes, at);
    if (!kept.huffman) damaged("signs without a table");
    if (form === 0) huffman(kept.huffman, bytes, at, end, out);
    else {
      const part = (size + 3) >> 2;
      let begin = at + 6;
      for (let stream = 0; stream < 4; stream++) {
        const until = stream < 3 ? begin + bytes[at + 2 * stream] + 256 * bytes[at + 2 * stream + 1] : end;
        huffman(kept.huffman, bytes, begin, until, out.subarray(stream * part, stream < 3 ? (stream + 1) * part : size));
        begin = until;
      }
    }
    return [out, end];
  };

  class Sink {
    constructor(size) { this.bytes = new Uint8Array(size); this.length = 0; }
    room(more) {
      const wanted = this.length + more;
      if (wanted > MOST_UNPACKED) throw new Error(`it unpacks to more than ${MOST_UNPACKED >> 20} MiB`);
      if (wanted <= this.bytes.length) return;
      const larger = new Uint8Array(Math.max(wanted, 2 * this.bytes.length));
      larger.set(this.bytes.subarray(0, this.length));
      this.bytes = larger;
    }
    add(bytes) { this.room(bytes.length); this.bytes.set(bytes, this.length); this.length += bytes.length; }
    fill(byte, number) { this.room(number); this.bytes.fill(byte, this.length, this.length += number); }
    /** What stands `back` bytes before the end, again. */
    again(back, number) {
      if (back > this.length || !back) damaged("it repeats what is not there");
      this.room(number);
      const from = this.length - back;
      if (back >= number) this.bytes.copyWithin(this.length, from, from + number);
      else for (let at = 0; at < number; at++) this.bytes[this.length + at] = this.bytes[from + at];
      this.length += number;
    }
    get whole() { return this.bytes.subarray(0, this.length); }
  }

  const readBlock = (bytes, at, end, kept, sink) => {
    let literals;
    [literals, at] = readLiterals(bytes, at, kept);
    let number = bytes[at++];
    if (number === 255) { number = bytes[at] + (bytes[at + 1] << 8) + 0x7f00; at += 2; } else if (number > 127) number = ((number - 128) << 8) + bytes[at++];
    if (!number) { sink.add(literals); return; }
    const modes = bytes[at++];
    for (const [name, shift, most] of [["literal", 6, 9], ["offset", 4, 8], ["match", 2, 9]]) {
      const mode = (modes >> shift) & 3;
      if (mode === 0) kept[name] = USUAL[name];
      else if (mode === 1) kept[name] = { log: 0, symbols: [bytes[at++]], bits: [0], base: [0] };
      else if (mode === 2) [kept[name], at] = readTable(bytes, at, most);
      else if (!kept[name]) damaged("states without a table");
    }
    const stream = new Backward(bytes, at, end), { literal, offset, match, last } = kept;
    let l = stream.read(literal.log), o = stream.read(offset.log), m = stream.read(match.log), used = 0;
    for (let left = number; left > 0; left--) {
      const far = offset.symbols[o];
      const value = 2 ** far + stream.read(far);
      const length = MATCH_BASE[match.symbols[m]] + stream.read(MATCH_BITS[match.symbols[m]]);
      const before = LITERAL_BASE[literal.symbols[l]] + stream.read(LITERAL_BITS[literal.symbols[l]]);
      if (left > 1) {
        l = literal.base[l] + stream.read(literal.bits[l]);
        m = match.base[m] + stream.read(match.bits[m]);
        o = offset.base[o] + stream.read(offset.bits[o]);
      }
      if (value > 3) { last.unshift(value - 3); last.pop(); } else {
        const which = value - 1 + (before === 0 ? 1 : 0);
        const back = which < 3 ? last[which] : last[0] - 1;
        if (which) { last.splice(Math.min(which, 2), 1); last.unshift(back); }
      }
      if (used + before > literals.length) damaged("a block has too few signs");
      sink.add(literals.subarray(used, used += before));
      sink.again(last[0], length);
    }
    if (stream.at !== stream.from) damaged("a stream of states");
    sink.add(literals.subarray(used));
  };

  /** What Zstandard compressed. Checksums are passed over; dictionaries are not taken. */
  W.zstd = (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), sink = new Sink(4 * bytes.length);
    let at = 0;
    const ends = () => { if (at > bytes.length) damaged("it ends too early"); };
    while (at < bytes.length) {
      if (at + 5 > bytes.length) damaged("it ends too early");
      const magic = view.getUint32(at, true);
      if (magic >>> 4 === SKIPPED) { at += 8 + view.getUint32(at + 4, true); continue; }
      if (magic !== MAGIC) throw new Error("it is no Zstandard");
      const about = bytes[at + 4], single = (about >> 5) & 1;
      if (about & 3) throw new Error("it needs a dictionary");
      at += 5 + (single ? 0 : 1) + [single, 2, 4, 8][about >> 6];
      const kept = { last: [1, 4, 8] };
      for (let isLast = false; !isLast;) {
        ends();
        const head = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16), kind = (head >> 1) & 3, size = head >> 3;
        isLast = (head & 1) === 1;
        at += 3;
        if (kind === 1) { sink.fill(bytes[at], size); at += 1; continue; }
        if (at + size > bytes.length) damaged("it ends too early");
        if (kind === 0) sink.add(bytes.subarray(at, at + size));
        else if (kind === 2) readBlock(bytes, at, at + size, kept, sink);
        else damaged("a block of no kind");
        at += size;
      }
      if (about & 4) at += 4;
    }
    ends();
    return sink.whole;
  };

  // -- tar

  const utf8 = new TextDecoder();
  /** Files of a tar whose names `wanted` takes: `[{ path, bytes }]`. */
  W.tar = (bytes, wanted) => {
    const found = [];
    const text = (from, length) => utf8.decode(bytes.subarray(from, from + length)).replace(/\0.*$/s, "");
    for (let at = 0; at + 512 <= bytes.length && bytes[at];) {
      const size = parseInt(text(at + 124, 12), 8), before = text(at + 345, 155), name = text(at, 100);
      if (!(size >= 0) || at + 512 + size > bytes.length) damaged("a file in it ends too early");
      const path = before ? `${before}/${name}` : name;
      if ((bytes[at + 156] === 48 || bytes[at + 156] === 0) && wanted(path)) found.push({ path, bytes: bytes.subarray(at + 512, at + 512 + size) });
      at += 512 + 512 * Math.ceil(size / 512);
    }
    return found;
  };

  // -- Parquet: columns without lists, of the encodings that pyarrow, DuckDB, polars and pandas write by themselves

  const varint = (cursor) => {
    let value = 0, scale = 1;
    for (;;) { const byte = cursor.bytes[cursor.at++]; if (byte === undefined) damaged("it ends too early"); value += (byte & 127) * scale; if (byte < 128) return value; scale *= 128; }
  };
  const signed = (cursor) => { const value = varint(cursor); return value % 2 ? -(value + 1) / 2 : value / 2; };
  /** A value of Thrift's compact protocol; of a struct its fields by number. */
  const thrift = (cursor, type, depth = 0) => {
    if (depth > 12) damaged("its description");
    if (type === 1 || type === 2) return type === 1;
    if (type === 3) return cursor.bytes[cursor.at++];
    if (type <= 6) return signed(cursor);
    if (type === 7) return (cursor.at += 8, null);
    if (type === 8) { const size = varint(cursor); return cursor.bytes.subarray(cursor.at, cursor.at += size); }
    if (type === 9 || type === 10) {
      const head = cursor.bytes[cursor.at++], size = head >> 4 === 15 ? varint(cursor) : head >> 4, items = [];
      for (let number = 0; number < size; number++) items.push((head & 15) < 3 ? cursor.bytes[cursor.at++] === 1 : thrift(cursor, head & 15, depth + 1));
      return items;
    }
    if (type !== 12) damaged("its description");
    const fields = {};
    for (let id = 0; ;) {
      const head = cursor.bytes[cursor.at++];
      if (!head) { if (head === undefined) damaged("its description"); return fields; }
      id = head >> 4 ? id + (head >> 4) : signed(cursor);
      fields[id] = thrift(cursor, head & 15, depth + 1);
    }
  };

  const snappy = (bytes) => {
    const cursor = { bytes, at: 0 }, size = varint(cursor), sink = new Sink(Math.min(size, MOST_UNPACKED));
    const little = (number) => { let value = 0; for (let at = 0; at < number; at++) value += bytes[cursor.at++] * 256 ** at; return value; };
    while (cursor.at < bytes.length) {
      const tag = bytes[cursor.at++], rest = tag >> 2;
      if ((tag & 3) === 0) { const length = 1 + (rest < 60 ? rest : little(rest - 59)); sink.add(bytes.subarray(cursor.at, cursor.at += length)); }
      else if ((tag & 3) === 1) sink.again(((tag >> 5) << 8) + bytes[cursor.at++], 4 + (rest & 7));
      else sink.again(little((tag & 3) === 2 ? 2 : 4), 1 + rest);
    }
    return sink.whole;
  };
  const gzip = async (bytes) => new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  const CODECS = { 0: (bytes) => bytes, 1: snappy, 2: gzip, 6: (bytes) => W.zstd(bytes) };

  /** `number` values of runs and packed bits, `width` bits each. */
  const hybrid = (bytes, at, width, number) => {
    const found = [], cursor = { bytes, at };
    while (found.length < number) {
      const head = varint(cursor);
      if (head & 1) {
        for (let one = 0; one < 8 * (head >>> 1) && found.length < number; one++) found.push(bitsAt(bytes, 0, 8 * cursor.at + one * width, width));
        cursor.at += (head >>> 1) * width;
      } else {
        const value = bitsAt(bytes, 0, 8 * cursor.at, width);
        cursor.at += (width + 7) >> 3;
        for (let one = head >>> 1; one > 0 && found.length < number; one--) found.push(value);
      }
    }
    return found;
  };
  const BOOLEAN = 0, INT32 = 1, INT64 = 2, FLOAT = 4, DOUBLE = 5, BYTES = 6; // physical types
  const TAKEN_TYPES = [BOOLEAN, INT32, INT64, FLOAT, DOUBLE, BYTES];
  const plain = (bytes, at, type, number) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found = [];
    for (let one = 0; one < number; one++) {
      if (type === BOOLEAN) found.push(((bytes[at + (one >> 3)] >> (one & 7)) & 1) === 1);
      else if (type === INT32) { found.push(view.getInt32(at, true)); at += 4; }
      else if (type === INT64) { found.push(Number(view.getBigInt64(at, true))); at += 8; }
      else if (type === FLOAT) { found.push(view.getFloat32(at, true)); at += 4; }
      else if (type === DOUBLE) { found.push(view.getFloat64(at, true)); at += 8; }
      else { const size = view.getUint32(at, true); found.push(utf8.decode(bytes.subarray(at + 4, at + 4 + size))); at += 4 + size; }
    }
    return found;
  };

  const readColumn = async (bytes, about, optional) => {
    const [type, codec, number] = [about[1], about[4], about[5]], found = [];
    const unpacked = CODECS[codec] ?? (() => { throw new Error(`it is compressed in a way that is not read here (${codec}); write it with compression="zstd"`); });
    const cursor = { bytes, at: Math.min(about[9], about[11] || Infinity) };
    let known = null;
    while (found.length < number) {
      const head = thrift(cursor, 12), size = head[3], body = bytes.subarray(cursor.at, cursor.at += size);
      if (body.length < size) damaged("it ends too early");
      if (head[1] === 2) { known = plain(await unpacked(body), 0, type, head[7][1]); continue; }
      const second = head[8], page = head[5] ?? second;
      if (!page) continue;
      let levels = null, values, at = 0;
      if (second) {
        if (optional) levels = hybrid(body, second[6] ?? 0, 1, page[1]);
        const before = (second[5] ?? 0) + (second[6] ?? 0);
        values = second[7] === false ? body.subarray(before) : await unpacked(body.subarray(before));
      } else {
        values = await unpacked(body);
        if (optional) { levels = hybrid(values, 4, 1, page[1]); at = 4 + (values[0] | (values[1] << 8) | (values[2] << 16)); }
      }
      const encoding = second ? second[4] : page[2], there = levels ? levels.reduce((all, one) => all + one, 0) : page[1];
      let read;
      if (encoding === 0) read = plain(values, at, type, there);
      else if ((encoding === 2 || encoding === 8) && known) read = there ? hybrid(values, at + 1, values[at], there).map((one) => known[one]) : [];
      else if (encoding === 3 && type === BOOLEAN) read = hybrid(values, at + 4, 1, there).map((one) => one === 1);
      else throw new Error(`a column of it is written in a way that is not read here (encoding ${encoding})`);
      let next = 0;
      for (let one = 0; one < page[1]; one++) found.push(levels && !levels[one] ? null : read[next++]);
    }
    return found;
  };

  /** The rows of a Parquet file, by the names of those columns that have no lists in them; at most `most`. */
  W.parquet = async (bytes, most) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), end = bytes.length;
    const sign = (at) => (at >= 0 && at + 4 <= end ? utf8.decode(bytes.subarray(at, at + 4)) : "");
    if (end < 12 || sign(0) !== "PAR1" || sign(end - 4) !== "PAR1") throw new Error("it is no Parquet");
    const about = thrift({ bytes, at: end - 8 - view.getUint32(end - 8, true) }, 12);
    const flat = new Map(about[2].slice(1).filter((one) => !one[5]).map((one) => [utf8.decode(one[4]), one[3] === 1]));
    const rows = [];
    for (const group of about[4]) {
      if (rows.length >= most) break;
      const from = rows.length;
      for (let at = 0; at < group[3]; at++) rows.push({});
      for (const { 3: column } of group[1]) {
        const name = utf8.decode(column[3][0]);
        if (column[3].length > 1 || !flat.has(name) || !TAKEN_TYPES.includes(column[1])) continue;
        (await readColumn(bytes, column, flat.get(name))).forEach((value, at) => { rows[from + at][name] = value; });
      }
    }
    return rows.slice(0, most);
  };
})();
