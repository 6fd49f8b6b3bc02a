// Calls the gateway with the official client for JavaScript: `node calls.mjs URL KEY MODEL SUBSCRIPTION COUNT`.
// Every kind of call, COUNT times, with prompts of different lengths. Fails where a caller sees what it has not
// asked for. Prints how many calls there were.
import { pathToFileURL } from 'node:url'

const client = await import(pathToFileURL(`${process.env.NODE_MODULES}/openai/index.mjs`))
const [url, apiKey, model, subscription, count] = process.argv.slice(2)
const openai = new client.OpenAI({
  baseURL: `${url}/openai/v1/`, apiKey, maxRetries: 0, defaultHeaders: { 'x-subscription': subscription },
})
const words = number => 'word '.repeat(number)
const messages = number => [{ role: 'user', content: words(number) }]

async function streamed(number, options) {
  const chunks = []
  for await (const chunk of await openai.chat.completions.create(
    { model, messages: messages(number), stream: true, ...options })) chunks.push(chunk)
  return chunks
}

function check(holds, what) {
  if (!holds) throw new Error(what)
}

const calls = [
  number => openai.chat.completions.create({ model, messages: messages(number) }),
  async number => check((await streamed(number, {})).every(one => one.choices.length && !one.usage),
    'a usage that nobody asked for'),
  async number => check((await streamed(number, { stream_options: { include_usage: true } })).at(-1).usage
    .prompt_tokens === 10 + number, 'no usage'),
  async number => check((await streamed(number, { stream_options: { include_usage: false } }))
    .every(one => one.choices.length && !one.usage), 'a usage that was refused'),
  number => openai.embeddings.create({ model, input: words(number) }),
  number => openai.responses.create({ model, input: words(number) }),
  async number => {
    let last
    for await (const event of await openai.responses.create({ model, input: words(number), stream: true }))
      last = event
    check(last.response.usage.input_tokens === 10 + number, 'no usage of a response')
  },
]
const all = Array.from({ length: calls.length * count }, (_, number) => calls[number % calls.length](1 + number % 40))
await Promise.all(all)
console.log(all.length)
