/**
 * Small tokenizers in the form of tokenizer.json. The ids are the published ones: excerpts of the vocabularies of LLaMA
 * and bert-base-uncased, cut down to what the sentences of the test need, so that the same sentence gives the same ids.
 */
type Json = Record<string, unknown>

const added = (id: number, content: string): Json => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
})
const pairs = (text: string) =>
  Object.fromEntries(
    text
      .trim()
      .split(/\s+/)
      .map((pair) => [pair.slice(0, pair.lastIndexOf('=')), Number(pair.slice(pair.lastIndexOf('=') + 1))]),
  )
const template = (before: [string, number][], after: [string, number][]): Json => {
  const token = ([id]: [string, number]) => ({ SpecialToken: { id, type_id: 0 } })
  return {
    type: 'TemplateProcessing',
    pair: [],
    single: [...before.map(token), { Sequence: { id: 'A', type_id: 0 } }, ...after.map(token)],
    special_tokens: Object.fromEntries([...before, ...after].map(([id, n]) => [id, { id, ids: [n], tokens: [id] }])),
  }
}

/** The sentences that the LLaMA excerpt holds, with their ids behind the BOS. */
export const LLAMA_SENTENCES: [string, number[]][] = [
  ['What is unusual about this image?', [1724, 338, 22910, 1048, 445, 1967, 29973]],
  ['The man is ironing clothes.', [450, 767, 338, 13977, 292, 22095, 29889]],
  ['naïve 🙂 世', [1055, 30085, 345, 29871, 243, 162, 156, 133, 29871, 30793]],
]

/** InstructBLIP-Vicuna's: BOS, EOS and unknown are </s>, padding is [PAD] = 32000. */
export function llama(): [Json, Json] {
  return [
    {
      version: '1.0',
      added_tokens: [added(0, '<unk>'), added(1, '<s>'), added(2, '</s>'), added(32000, '[PAD]')],
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: template([['</s>', 2]], []),
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        unk_token: '<unk>',
        fuse_unk: true,
        byte_fallback: true,
        vocab: pairs(LLAMA_VOCAB),
        merges: LLAMA_MERGES.trim()
          .split(/\s+/)
          .map((merge) => merge.replace('+', ' ')),
      },
    },
    {
      bos_token: '</s>',
      eos_token: '</s>',
      unk_token: { content: '</s>' },
      pad_token: '[PAD]',
      clean_up_tokenization_spaces: false,
    },
  ]
}

/** bert-base-uncased with [DEC], which no text gives. */
export function bert(): [Json, Json] {
  return [
    {
      version: '1.0',
      added_tokens: [
        added(0, '[PAD]'),
        added(100, '[UNK]'),
        added(101, '[CLS]'),
        added(102, '[SEP]'),
        added(30522, '[DEC]'),
      ],
      normalizer: {
        type: 'BertNormalizer',
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      post_processor: template([['[CLS]', 101]], [['[SEP]', 102]]),
      decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
      model: {
        type: 'WordPiece',
        unk_token: '[UNK]',
        continuing_subword_prefix: '##',
        max_input_chars_per_word: 100,
        vocab: pairs(
          '[PAD]=0 [UNK]=100 [CLS]=101 [SEP]=102 !=999 ,=1010 ?=1029 the=1996 is=2003 this=2023 what=2054 about=2055 ##ing=2075 ##ble=3468 iron=3707 image=3746 unusual=5866 cafe=7668 una=14477 ##ffa=20961',
        ),
      },
    },
    {
      bos_token: '[DEC]',
      cls_token: '[CLS]',
      sep_token: '[SEP]',
      pad_token: '[PAD]',
      unk_token: '[UNK]',
      truncation_side: 'left',
    },
  ]
}

/** Byte-level as GPT-2's and OPT's: all 256 bytes and a few words. */
export function bytes(): [Json, Json] {
  const letters: string[] = []
  let next = 256
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    letters.push(String.fromCodePoint(printable ? byte : next++))
  }
  const merges = ['Ġ c', 'a t', 'Ġc at', 'c at']
  const tokens = ['<pad>', '</s>', ...letters, ...merges.map((m) => m.replace(' ', ''))]
  return [
    {
      version: '1.0',
      added_tokens: [added(0, '<pad>'), added(1, '</s>')],
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: template([['</s>', 1]], []),
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: 'BPE',
        unk_token: null,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges,
      },
    },
    { bos_token: '</s>', eos_token: '</s>', pad_token: '<pad>' },
  ]
}

/** The sentences that the T5 excerpt holds, with their ids before the EOS. */
export const T5_SENTENCES: [string, number[]][] = [
  ['The house is wonderful.', [37, 629, 19, 1627, 5]],
  ['Das Haus ist wunderbar.', [644, 4598, 229, 19250, 5]],
]

/** Flan-T5's with the placeholder of a picture behind: a unigram model, EOS behind a text, no BOS. */
export function t5(): [Json, Json] {
  const vocab = Array.from({ length: 32100 }, (_, i): [string, number] => [`<unused_${i}>`, -1000])
  for (const [token, id] of Object.entries(pairs(T5_VOCAB))) vocab[id] = [token, -2 - token.length]
  return [
    {
      version: '1.0',
      added_tokens: [added(0, '<pad>'), added(1, '</s>'), added(2, '<unk>'), added(32100, '<image>')],
      normalizer: { type: 'Precompiled', precompiled_charsmap: '' },
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [{ type: 'WhitespaceSplit' }, { type: 'Metaspace', replacement: '▁', add_prefix_space: true }],
      },
      post_processor: template([], [['</s>', 1]]),
      decoder: { type: 'Metaspace', replacement: '▁', add_prefix_space: true },
      model: { type: 'Unigram', unk_id: 2, vocab },
    },
    { eos_token: '</s>', pad_token: '<pad>', unk_token: '<unk>' },
  ]
}

const T5_VOCAB = `
<pad>=0 </s>=1 <unk>=2 ▁=3 .=5 s=7 ▁is=19 ▁The=37 ▁ist=229 ▁house=629 ▁Das=644 ▁wonderful=1627 ▁Haus=4598 ▁wunderbar=19250
`

const LLAMA_VOCAB = `
<unk>=0 <s>=1 </s>=2 <0x82>=133 <0x99>=156 <0x9F>=162 <0xF0>=243 ▁t=260 in=262 ▁a=263 on=265 ▁th=266 es=267 at=271 an=273 ▁c=274 is=275 ou=283 al=284
▁m=286 ing=292 ▁n=302 ro=307 ▁u=318 ▁T=323 im=326 ot=327 ut=329 ▁is=338 ve=345 un=348 ag=351 he=354 ab=370 us=375 ir=381 th=386 ▁W=399 lo=417 ▁un=443
▁this=445 out=449 ▁The=450 ▁i=474 ge=479 age=482 ▁Th=498 ▁im=527 ▁ma=611 ▁ab=633 ma=655 cl=695 oth=720 ▁man=767 ▁Wh=806 bo=833 ng=865 ual=950
▁about=1048 ▁na=1055 na=1056 ▁cl=1067 ning=1076 man=1171 ni=1240 Th=1349 this=1366 the=1552 The=1576 ron=1617 ▁What=1724 ▁image=1967 su=2146 ha=2350
hat=2455 hi=2918 ima=2946 image=3027 iro=3350 ua=3357 nu=3433 ▁ir=3805 oni=5271 What=5618 ▁imag=6382 lot=8276 Wh=8809 othe=10323 mag=11082 about=12717
hes=13244 ▁cloth=13950 ▁iron=13977 clo=15126 ▁clo=17184 ▁unus=18325 ▁clothes=22095 his=22880 ▁unusual=22910 thes=26041 oning=28259 ▁=29871 e=29872
t=29873 a=29874 i=29875 n=29876 o=29877 r=29878 s=29879 l=29880 h=29882 c=29883 u=29884 m=29885 g=29887 .=29889 b=29890 v=29894 T=29911 W=29956
?=29973 ï=30085 世=30793
`

const LLAMA_MERGES = `
▁+t i+n ▁+a o+n ▁t+h ▁+th e+s a+t a+n ▁+c i+s o+u a+l ▁+m in+g i+ng ▁+n r+o ▁+u ▁+T i+m o+t u+t ▁i+s ▁+is v+e u+n a+g h+e a+b u+s i+r t+h ▁+W l+o ▁u+n
▁+un ▁t+his ▁th+is ▁+this ou+t o+ut ▁T+he ▁Th+e ▁+The ▁+i g+e ag+e a+ge ▁T+h ▁+Th ▁i+m ▁+im ▁m+a ▁+ma ▁a+b ▁+ab m+a c+l ot+h o+th ▁m+an ▁ma+n ▁+man
▁W+h ▁+Wh b+o n+g ua+l u+al ▁ab+out ▁+about ▁n+a ▁+na n+a ▁c+l ▁+cl ni+ng n+ing ma+n m+an n+i T+h th+is t+his th+e t+he Th+e T+he ro+n r+on ▁W+hat
▁Wh+at ▁+What ▁im+age ▁imag+e ▁+image s+u h+a ha+t h+at h+i im+a i+ma im+age ima+ge ir+o i+ro u+a n+u ▁i+r ▁+ir on+i o+ni Wh+at W+hat ▁i+mag ▁im+ag
lo+t l+ot W+h ot+he oth+e o+the ma+g m+ag ab+out he+s h+es ▁cl+oth ▁clo+th ▁i+ron ▁ir+on cl+o c+lo ▁c+lo ▁cl+o ▁+clo ▁un+us ▁cloth+es ▁clo+thes hi+s
h+is ▁unus+ual th+es the+s t+hes on+ing oni+ng o+ning
`
