// What a range costs, while it is dragged: the formulas of qviz/histogram_density.py and
// qviz/affine.py, number for number, on the same density. A round trip would take too long.

// Pieces of constant density, with their running sums, out of what the server sends: counts of
// consecutive pieces, the first bin's number, the width of a bin, where the data and the density
// of the bins beside zero end.
const readDensity = ({ first, width, counts, low, high, splits }) => {
  const pieces = counts.length;
  const left = new Float64Array(pieces + 2);
  const bins = pieces - splits.filter((s) => s !== null).length;
  let at = 1;
  for (let bin = first; bin < first + bins; bin++) {
    left[at++] = bin === first ? Math.max(bin * width, low) : bin * width;
    if (bin === -1 && splits[0] !== null) left[at++] = splits[0];
    if (bin === 0 && splits[1] !== null) left[at++] = splits[1];
  }
  left[0] = left[1];
  left[pieces + 1] = Math.min((first + bins) * width, high);
  const zeros = () => new Float64Array(pieces + 2);
  const [slope, below, moment] = [zeros(), zeros(), zeros()];
  const sums = [zeros(), zeros(), zeros()];
  for (let i = 1; i <= pieces; i++) {
    const [a, b, n] = [left[i], left[i + 1], counts[i - 1]];
    const span = b - a;
    slope[i] = span > 0 ? n / span : 0;
    sums[0][i] = n;
    sums[1][i] = (n * (a + b)) / 2;
    sums[2][i] = (n * (a * a + a * b + b * b)) / 3;
    below[i + 1] = below[i] + n;
    moment[i + 1] = moment[i] + below[i] * span + (n * span) / 2;
  }
  const above = sums.map((sum) => {
    const out = new Float64Array(pieces + 3);
    for (let i = pieces; i >= 0; i--) out[i] = out[i + 1] + sum[i];
    return out;
  });
  return { first, bins, width, splits, left, slope, below, moment, sums, above };
};

// The piece that x lies in.
const pieceOf = (d, x) => {
  const last = d.left.length - 1;
  if (x >= d.left[last]) return last;
  let piece = Math.min(Math.max(Math.floor(x / d.width) - (d.first - 1), 0), d.bins);
  for (const split of d.splits) if (split !== null && x >= split) piece++;
  return piece;
};

// Number, sum and sum of squares of the values beyond a threshold on one side.
const beyond = (d, threshold, sign) => {
  if (sign < 0 && threshold <= d.left[0]) return [0, 0, 0];
  const piece = pieceOf(d, threshold);
  const right = Math.max(threshold - d.left[piece], 0);
  const x = d.left[piece] + right;
  const end = d.left[Math.min(piece + 1, d.left.length - 1)];
  return d.above.map((sums, power) => {
    const part = right > 0
      ? (d.slope[piece] * (end ** (power + 1) - x ** (power + 1))) / (power + 1)
      : d.sums[power][piece];
    const over = (sums[piece + 1] ?? 0) + part;
    return sign > 0 ? over : sums[0] - over;
  });
};

const halfEven = (x) => {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
};

// Step size, and lowest and highest code less the zero point.
const gridOf = (lo, hi, { symmetric, quant_min: qmin, quant_max: qmax }) => {
  const safe = (scale) => (scale < 2 ** -126 ? 1 : scale);
  if (symmetric) {
    const amax = Math.max(Math.abs(lo), Math.abs(hi));
    return [safe(Math.fround(Math.fround(amax) / qmax)), qmin, qmax];
  }
  const [low, high] = [Math.min(lo, 0), Math.max(hi, 0)];
  const scale = safe(Math.fround((high - low) / (qmax - qmin)));
  const zero = Math.min(Math.max(halfEven(qmin - low / scale), qmin), qmax);
  return [scale, qmin - zero, qmax - zero];
};

// Share clipped, step, SQNR and both parts of the mean squared error of one range.
const costOf = (d, lo, hi, grid) => {
  const [scale, lowest, highest] = gridOf(lo, hi, grid);
  let thresholds = 0;
  for (let code = lowest; code < highest; code++) {
    const t = (code + 0.5) * scale;
    const piece = pieceOf(d, t);
    const right = Math.max(t - d.left[piece], 0);
    thresholds += d.moment[piece] + (d.slope[piece] * (right / 2) + d.below[piece]) * right;
  }
  const [number, total, squares] = d.above.map((sums) => sums[0]);
  const top = highest * scale;
  const error = Math.max(
    squares - 2 * top * total + top * top * number - 2 * scale * thresholds, 0);
  let [outside, clipping] = [0, 0];
  for (const [sign, code] of [[1, highest], [-1, lowest]]) {
    const end = code * scale;
    const [n, sum, square] = beyond(d, end + (sign * scale) / 2, sign);
    outside += n;
    clipping += Math.max(square - 2 * end * sum + end * end * n, 0);
  }
  const { finite, total_squares: signal } = grid;
  clipping = Math.min(clipping, error) / finite;
  const mse = error / finite;
  return {
    clipped_fraction: outside / finite,
    step: scale,
    mse,
    clipping_mse: clipping,
    rounding_mse: mse - clipping,
    sqnr_db: mse > 0 ? 10 * Math.log10(signal / finite / mse) : null,
  };
};
