import EchoEdgeCore
import Foundation
import XCTest

/// What the engine makes of what a case gives.
func computed(_ given: Case) throws -> [String: Value] {
    switch given.kind {
    // ---- numbers ----
    case "numbers":
        let read = try given.texts("texts").map { try XCTUnwrap(Json.parse($0).double) }
        return ["doubles": .doubles(read), "floats": .floats(read.map { Float($0) })]
    case "integers":
        return ["values": .wholes(try given.texts("texts").map { Int(bitPattern: UInt(try Normals.seed($0))) })]
    case "string": return ["utf8": .bytes(Array(try XCTUnwrap(Json.parse(given.text("text")).text).utf8))]
    case "document":
        _ = try Json.parse(given.text("text"))
        return [:]
    // ---- noise ----
    case "philox": return try philox(given)
    case "normals": return try normals(given.array("words"))
    case "noise":
        let shape = try given.wholes("shape")
        let made = try Normals.noise(
            seed: given.seed("seed"), channels: shape[0], frames: shape[1], height: shape[2], width: shape[3],
            firstFrame: given.whole("first_frame"))
        return ["latents": .floats(made.values)]
    // ---- steps ----
    case "combine":
        let arrays = try given.array("arrays")
        let m = arrays.shape[1]
        let values = arrays.floats
        let rows = (0..<arrays.shape[0]).map { Array(values[($0 * m)..<(($0 + 1) * m)]) }
        return ["sum": .floats(try combine(given.array("weights").doubles, rows))]
    case "modality":
        let plan = try given.plan()
        let frames = try given.whole("frames")
        return ["weights": .floats(try (0..<plan.steps).flatMap { try plan.modality($0, frames) })]
    case "text_scale": return ["text": .floats(Inputs.scaled(try given.array("rows").tensor(), try given.number("scale")).values)]
    case "step": return try steps(given)
    case "loop": return try loop(given)
    // ---- windows ----
    case "windows":
        let length = try given.whole("length")
        let rule = WindowRule(
            length: length, overlap: try given.whole("overlap"), upstreamCompat: try given.flag("upstream_compat"))
        let found = try windows(given.whole("total"), rule, step: given.whole("step"))
        let shares = found.flatMap { $0.shares + [Double](repeating: 0, count: length - $0.shares.count) }
        return ["starts": .wholes(found.map(\.start)), "lengths": .wholes(found.map(\.length)), "shares": .doubles(shares)]
    case "blend": return try blend(given)
    case "clip":
        let clip = Clip(
            height: 64, width: 64, frames: try given.whole("frames"), fps: try given.whole("fps"),
            sampleRate: try given.whole("sample_rate"))
        let (frames, latent) = try Playing.length(given.whole("samples"), clip, temporalStride: 4)
        return ["frames": .json(.whole(frames)), "latent_frames": .json(.whole(latent))]
    // ---- speech ----
    case "wav":
        let sound = try Wav.parse(given.content("wav"))
        return ["sample_rate": .json(.whole(sound.rate)), "wave": .floats(Speech.mono(sound))]
    case "resample":
        return [
            "wave": .floats(Speech.resampled(try given.floats("wave"), from: try given.whole("from"), to: try given.whole("to")))
        ]
    case "level": return ["wave": .floats(Speech.level(try given.floats("wave")))]
    case "loudness": return ["lufs": .json(.maybe(Loudness.of(try given.floats("wave"), try given.whole("sample_rate"))))]
    case "normalise": return ["wave": .floats(Speech.normalised(try given.floats("wave"), try given.whole("sample_rate")))]
    case "speech":
        let sound = try Wav.parse(given.content("wav"))
        return ["speech": .floats(try Speech.of(sound, sampleRate: given.whole("sample_rate"), fps: given.whole("fps")))]
    // ---- hearing ----
    case "readings":
        let found = try Hear.readings(given.whole("frames"), reach: given.whole("reach"), Hearing(given.value("hearing")))
        return ["readings": .wholes(found.flatMap { [$0.start, $0.end, $0.first, $0.last] })]
    case "normalised": return ["sound": .floats(Hear.normalised(try given.floats("sound"), try given.whole("own")))]
    case "moments":
        return [
            "moments": .floats(
                try Hear.moments(given.floats("sound"), length: given.whole("length"), stride: given.whole("stride")).values)
        ]
    case "present":
        let rows = try given.whole("rows_per_frame")
        return ["present": .floats(Hear.present(try given.whole("frames"), reach: try given.whole("reach"), rowsPerFrame: rows))]
    case "hear": return try heard(given)
    case "neighbours":
        return ["rows": .floats(Hear.neighbourhoods(try given.array("features").tensor(), try given.whole("neighbours")).values)]
    case "audio":
        let hearing = try Hearing(given.value("hearing"))
        let made = Hear.voice(
            try given.array("features").tensor(), hearing, first: hearing.rowsPerFrame * 4 * (try given.whole("start")),
            length: 4 * (try given.whole("length") - 1) + 1, listens: try given.flag("audio"), shift: try given.whole("audio_shift")
        )
        let audio = ["audio": Value.floats(made.rows.values)]
        return hearing.beyondFrames > 0 ? audio.merging(["audio_present": .floats(made.present.values)]) { one, _ in one } : audio
    // ---- inputs ----
    case "ids":
        let (ids, length) = Inputs.byteIds(
            try given.text("prompt"), textLength: try given.whole("text_length"), padId: try given.whole("pad_id"))
        return ["ids": .wholes(ids.map(Int.init)), "length": .json(.whole(length))]
    case "text":
        let made = try Inputs.text(
            given.array("rows").tensor(), textLength: given.whole("text_length"), textRows: given.whole("text_rows"))
        return ["text": .floats(made.text.values), "text_bias": .floats(made.bias.values)]
    case "known":
        let latents = try Latents(given.array("latents").tensor())
        return [
            "y": .floats(
                Inputs.known(latents, maskChannels: try given.whole("mask_channels"), frames: try given.whole("frames")).values)
        ]
    // ---- picture and colour ----
    case "orient":
        return ["pixels": .bytes(Pictures.oriented(try given.array("pixels").pixels(), try given.whole("orientation")).bytes)]
    case "matte": return ["pixels": .bytes(Pictures.matte(try given.array("pixels").pixels()).bytes)]
    case "part":
        let part = try Pictures.part(
            imageHeight: given.whole("image_height"), imageWidth: given.whole("image_width"), height: given.whole("height"),
            width: given.whole("width"), crop: given.square("crop"), face: given.square("face"))
        return ["part": .doubles([part.top, part.left, part.height, part.width])]
    case "resize":
        let box = try given.array("box").doubles.map { Float($0) }
        let made = Pictures.resized(
            try given.array("pixels").pixels(), box: (box[0], box[1], box[2], box[3]), height: try given.whole("height"),
            width: try given.whole("width"))
        return ["pixels": .bytes(made.bytes)]
    case "signed": return ["portrait": .floats(Pictures.signed(try given.array("pixels").pixels()).values)]
    case "portrait":
        let made = try Pictures.portrait(given.array("pixels").pixels(), height: given.whole("height"), width: given.whole("width"))
        return ["portrait": .floats(made.values)]
    case "pixels":
        let video = try given.array("video")
        let frames = Film.frames(video.floats, video.shape[0], height: video.shape[2], width: video.shape[3])
        return ["pixels": .bytes(frames.flatMap(\.bytes))]
    case "yuv":
        let made = try Film.yuv(given.array("pixels").pixels())
        return ["y": .bytes(made.y), "u": .bytes(made.u), "v": .bytes(made.v)]
    // ---- mp4 ----
    case "times":
        let fps = try given.whole("fps")
        let frames = 0..<(try given.whole("frames"))
        return [
            "time_scale": .json(.whole(Film.timeScale(fps))), "ticks": .wholes(frames.map { Film.ticks($0, fps) }),
            "microseconds": .wholes(frames.map { Film.microseconds($0, fps) }),
        ]
    case "sound":
        let (frames, fps, rate) = (try given.whole("frames"), try given.whole("fps"), try given.whole("sample_rate"))
        let ranges = (0..<frames).map { Film.samples($0, fps, rate) }
        return [
            "ranges": .wholes(ranges.flatMap { [$0.lowerBound, $0.upperBound] }),
            "sound": .floats(Film.voice(try given.floats("speech"), frames: frames, fps: fps, sampleRate: rate)),
        ]
    // ---- bundle and records ----
    case "manifest": return try manifest(given)
    case "plan":
        let plan = try given.plan()
        return [
            "steps": .json(.whole(plan.steps)), "branches": .json(.list(plan.branches.map { .text($0.name) })),
            "evaluated": .json(.list((0..<plan.steps).map { .list(plan.evaluated($0).map(Json.whole)) })),
            "evaluations": .json(.whole(plan.evaluations)), "seed": .json(try Json.parse(String(plan.seed))),
        ]
    case "tensors":
        var found: [String: Value] = [:]
        for (name, tensor) in try Tensors.read(given.file("safetensors")).entries { found[name] = .floats(try tensor.floats()) }
        return ["tensors": .named(found)]
    case "files":
        _ = try ModelBundle.open(given.path("folder"))
        return [:]
    case "spread":
        let spread = Spread(try given.array("seconds").doubles)
        return ["median": .json(.number(spread.median)), "p10": .json(.number(spread.p10)), "p90": .json(.number(spread.p90))]
    case "record":
        try BenchRecord.check(given.content("record"))
        return [:]
    default: throw Missing(what: "Nobody here knows what \(given.kind) is: \(given.name).")
    }
}

private func philox(_ given: Case) throws -> [String: Value] {
    let counter = try given.array("counter")
    let words = counter.words
    let m = counter.shape[1]
    let key = try given.wholes("key").map { UInt32($0) }
    var made = [Int](repeating: 0, count: words.count)
    for block in 0..<m {
        let four = SIMD4(words[block], words[m + block], words[2 * m + block], words[3 * m + block])
        let found = Normals.philox(four, key: (key[0], key[1]))
        for k in 0..<4 { made[k * m + block] = Int(found[k]) }
    }
    return ["words": .wholes(made)]
}

private func normals(_ words: Vector) throws -> [String: Value] {
    let m = words.shape[1]
    let given = words.words
    let uniforms = given.map(Normals.uniform)
    func rows(_ first: Int) -> [Double] { Array(uniforms[(first * m)..<((first + 1) * m)]) }
    let turns = (rows(1) + rows(3)).map(Normals.cosSinTurns)
    var doubles = [Double](repeating: 0, count: 4 * m)
    for block in 0..<m {
        let four = Normals.normals(SIMD4(given[block], given[m + block], given[2 * m + block], given[3 * m + block]))
        for k in 0..<4 { doubles[k * m + block] = four[k] }
    }
    return [
        "uniforms": .doubles(uniforms), "logarithms": .doubles((rows(0) + rows(2)).map(Normals.ln)),
        "cosines": .doubles(turns.map(\.cosine)), "sines": .doubles(turns.map(\.sine)), "doubles": .doubles(doubles),
        "floats": .floats(doubles.map { Float($0) }),
    ]
}

private func steps(_ given: Case) throws -> [String: Value] {
    let plan = try given.plan()
    let noise = try given.floats("noise")
    let velocities = try given.floats("velocities")
    let m = noise.count
    let b = plan.branches.count
    var history = [noise]
    var latents: [Float] = []
    for step in 0..<plan.steps {
        let used = plan.evaluated(step)
        history.append(
            try guide(
                plan, step,
                (0..<b).map { used.contains($0) ? Array(velocities[((step * b + $0) * m)..<((step * b + $0 + 1) * m)]) : nil }))
        latents += try advance(plan, step, history)
    }
    return ["guided": .floats(Array(history.dropFirst().joined())), "latents": .floats(latents)]
}

/// The programs of a loop's case: formulas in single precision.
private struct Formulas: Denoiser {
    func begin(_ position: Int, _ span: LatentWindow, _ count: Int) {}
    func end(_ position: Int, _ latents: Latents, _ finished: Int) {}

    func evaluate(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents) throws -> Evaluated {
        let a = Float(0.5 / Double(branch + 1))
        let b = Float(0.125 * Double(step + 1) - 0.0625 * Double(position))
        let residual = latents.values.map { $0 * 0.25 }
        return (latents.with(latents.values.map { $0 * a + b }), try Floats(shape: [residual.count], residual))
    }

    func reuse(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents, _ residual: any Tensor) throws -> Latents {
        latents.with(zip(try residual.floats(), latents.values).map { $0 + $1 * 0.5 })
    }
}

private func loop(_ given: Case) throws -> [String: Value] {
    let shape = try given.wholes("shape")
    let noise = try Normals.noise(
        seed: given.seed("seed"), channels: shape[0], frames: shape[1], height: shape[2], width: shape[3])
    let rule = WindowRule(length: try given.whole("length"), overlap: try given.whole("overlap"))
    let made = try sample(given.plan(), rule, noise, Formulas())
    return [
        "latents": .floats(made.latents.values), "evaluations": .json(.whole(made.evaluations)),
        "reused": .json(.whole(made.reused)),
    ]
}

private func blend(_ given: Case) throws -> [String: Value] {
    let velocities = try given.array("velocities")
    let shape = velocities.shape
    let values = velocities.floats
    let total = try given.whole("total")
    let size = sizeOf(Array(shape.dropFirst()))
    let spans = try windows(total, WindowRule(length: given.whole("length"), overlap: given.whole("overlap")))
    let parts = (0..<shape[0]).map { index in
        let part = Array(values[(index * size)..<((index + 1) * size)])
        return (
            window: spans[index], velocity: Latents(channels: shape[1], frames: shape[2], height: shape[3], width: shape[4], part)
        )
    }
    let frames = try (0..<total).map { try blendFrame(parts, $0) }
    return ["velocity": .floats(Latents(channels: shape[1], height: shape[3], width: shape[4], frames: frames).values)]
}

private func heard(_ given: Case) throws -> [String: Value] {
    let hearing = try Hearing(given.value("hearing"))
    let perFrame = try given.whole("sample_rate") / given.whole("fps")
    let found = try Hear.readings(
        given.floats("speech"), given.whole("frames"), samplesPerFrame: perFrame, samples: given.whole("samples"), hearing)
    let kept = found.enumerated().flatMap { call, heard -> [Float] in
        let first = (heard.reading.first - heard.reading.start) * hearing.rowsPerFrame
        let last = (heard.reading.last - heard.reading.start) * hearing.rowsPerFrame
        return (first..<last).flatMap { [Float(call), Float($0)] }
    }
    var made: [String: Value] = ["waveforms": .floats(found.flatMap(\.waveform)), "kept": .floats(kept)]
    if hearing.window != nil {
        made["moments"] = .floats(try XCTUnwrap(found.first?.moments).values)
        made["present"] = .floats(try found.flatMap { try XCTUnwrap($0.present) })
    }
    return made
}

private func manifest(_ given: Case) throws -> [String: Value] {
    let manifest = try Manifest.parse(given.content("manifest"))
    let clip = try manifest.clip(given.text("clip"))
    var programs: [String: Value] = [:]
    for role in manifest.roles {
        guard let program = try? manifest.program(role, clip) else { continue }
        programs[role] = .named([
            "name": .json(.text(program.name)), "path": .json(.text(program.path)), "prefix": .json(.text(program.prefix)),
            "data": .json(.maybe(program.data)),
        ])
    }
    return [
        "clips": .json(.list(manifest.clips.map { .text($0.description) })), "programs": .named(programs),
        "checksum": .json(.bool(manifest.hasChecksum)),
    ]
}
