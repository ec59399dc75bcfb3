// Greedy replies of node-llama-cpp, for tests/test_node.py: node replies.mjs MODE MODEL N TOKENS...
// Each TOKENS is a prompt, "5,6,7". Prints the tokens of a reply for each.
import {getLlama, InputLookupTokenPredictor, LlamaLogLevel} from "node-llama-cpp";

const [mode, modelPath, n, ...prompts] = process.argv.slice(2);
const llama = await getLlama({build: "never", gpu: false, maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath});
const sequences = mode === "side by side" ? prompts.length : 1;
const context = await model.createContext({contextSize: 256, sequences, flashAttention: false});

// Penalizes, by nothing that a float could hold, other tokens at each step: the chain is built anew each time.
const rebuild = (tokens) => ({
    punishTokens: () => tokens.filter((_, i) => (i + tokens.length) % 2 === 0),
    penalty: 1,
    frequencyPenalty: 1e-30
});

async function reply(sequence, prompt) {
    const tokens = [];
    const options = {temperature: 0, yieldEogToken: true};
    if (mode === "rebuilt chains")
        options.repeatPenalty = rebuild(tokens);
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt.split(",").map(Number), options)) {
        tokens.push(token);
        if (tokens.length === Number(n))
            break;
    }
    return tokens.join(" ");
}

if (mode === "side by side") {
    const replies = await Promise.all(prompts.map((prompt) => reply(context.getSequence(), prompt)));
    console.log(replies.join("\n"));
} else {
    const drafts = mode === "drafts" ? {tokenPredictor: new InputLookupTokenPredictor()} : {};
    const sequence = context.getSequence(drafts);
    for (const prompt of prompts)
        console.log(await reply(sequence, prompt));
}
await llama.dispose();
