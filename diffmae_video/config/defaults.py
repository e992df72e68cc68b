"""Every configuration key of the project: its type (that of the default value), its default, and what it does.

A key that is not declared here does not exist: ``load_config`` refuses it and names the nearest declared one.
"""

from fvcore.common.config import CfgNode as Node

_C = Node()

# ----------------------------------------------------------------------------------------------------------- the run
# What run_net.py does: "pretrain"; train a classifier on labels: "finetune" (all of it), "linear" or "attentive" (a
# probe on the frozen encoder); measure: "knn" (nearest neighbours of its features), "test" (a trained classifier),
# "inpaint_eval" (what a pre-trained model paints).
_C.TASK = "pretrain"
_C.OUTPUT_DIR = "runs/default"  # checkpoints, logs, resolved config and pictures of this run
_C.SEED = 0  # all randomness (data order, crops, masks, timesteps, noise, initial weights) derives from it
_C.DEVICE = "auto"  # "auto" (CUDA where there is one, else CPU), "cpu", "cuda", "cuda:1", ...
# Processes that run_net.py starts on this machine, each with a GPU of its own, or on a CPU its share of the cores; 1 =
# this process alone. Under torchrun or SLURM, which start the processes, leave it at 1.
_C.NUM_GPUS = 1

_C.DISTRIBUTED = Node()
# Seconds that a process waits for the others' part of a sum before it gives up. A process that has died is noticed
# within seconds whatever this says; a machine that is down or cut off, after this.
_C.DISTRIBUTED.TIMEOUT = 600.0
# What several processes share: "ddp" (the work; each has the whole model) or "fsdp" (parameters, gradients and what the
# optimiser keeps for them too, for models that are too large for one GPU); docs/scaling.md tells which, and why.
_C.DISTRIBUTED.PARALLEL = "ddp"
# Of "fsdp": the blocks' weights are put together, and used, as "fp32" or "bf16" (half the memory and traffic; with
# TRAIN.PRECISION "bf16"). Gradients are summed and weights are kept in float32 either way.
_C.DISTRIBUTED.FSDP_PRECISION = "fp32"
# Of "fsdp": weights, gradients and what the optimiser keeps are in the memory of the host. Slow.
_C.DISTRIBUTED.FSDP_CPU_OFFLOAD = False

# -------------------------------------------------------------------------------------------------------------- data
_C.DATA = Node()
_C.DATA.PATH_TO_DATA_DIR = ""  # where the data is: a folder with lists, one list, or a folder of videos and/or images
# How it is laid out: "auto" (looks), "list" (path label), "frame_list", "kinetics", "ssv2", "ucf101", "hmdb51",
# "class_folders", "class_frames", "folder", "frames" or "shards"; datasets/README.md describes each.
_C.DATA.FORMAT = "auto"
_C.DATA.PATH_PREFIX = ""  # folder of a list's videos; "" = the folder of the list, or where its format has them
_C.DATA.LABELS = ""  # file of class names and numbers; "" = the one beside the list, or alphabetical
# Training videos of every class, the same ones for the same SEED; a smaller choice is part of a larger one; 0 = all.
_C.DATA.LABELS_PER_CLASS = 0
_C.DATA.FOLD = 1  # which of the three official splits of UCF101 and HMDB51
_C.DATA.PAGE = "datasets/your_own_videos.md"  # the page that prepares this dataset; named when the data is missing
_C.DATA.NUM_FRAMES = 16  # frames in a clip (T); 1 = images
_C.DATA.SAMPLING = "dense"  # "dense" (SAMPLING_RATE apart) or "segment" (one frame out of each of T equal parts)
_C.DATA.SAMPLING_RATE = 4  # distance between two sampled frames, in frames of the source
_C.DATA.CROP_SIZE = 224  # height and width of a clip, pixels
# "crop" (a clip shows a region of its own shape, at test time the central square) or "stretch" (CROP_ASPECT is relative
# to the frame's, and a test clip shows the whole frame squeezed to a square: for frames that differ in shape).
_C.DATA.FIT = "crop"
_C.DATA.CROP_SCALE = [0.5, 1.0]  # random resized crop: range of the cropped share of the frame's area
_C.DATA.CROP_ASPECT = [0.75, 1.3333]  # random resized crop: range of width / height of the cropped region
_C.DATA.HORIZONTAL_FLIP = True  # flip half of the clips; False where left and right carry meaning (Something-Something)
_C.DATA.REPEATED_SAMPLING = 1  # clips drawn from one opened video; an epoch counts clips, so R clips = R videos' worth
_C.DATA.DECODER = "auto"  # "auto" (the fastest that is right for a file), "decord", "torchcodec", "pyav"
# Seconds after which decoding a video is cut off, in a process beside every worker; 0 = never, in the worker itself.
_C.DATA.DECODE_TIMEOUT = 60.0
# Seconds to wait for the folder of all the data where it is away (a network disk that hangs, or is remounted), before
# the run ends; the videos of that time do not count as unreadable. 0 = they do.
_C.DATA.ROOT_TIMEOUT = 300.0
# Shorter side (pixels) to which frames are scaled while decoding, never upwards; 0 = full size.
_C.DATA.DECODE_SHORT_SIDE = 0
_C.DATA.MEAN = [0.5, 0.5, 0.5]  # pixel mean on the [0, 1] scale; 0.5 / 0.5 maps pixels onto [-1, 1]
_C.DATA.STD = [0.5, 0.5, 0.5]  # pixel standard deviation on the [0, 1] scale
# Of tar shards: so many are read at a time, their samples in random order; 1 reads them strictly one by one.
_C.DATA.SHARD_SHUFFLE_WINDOW = 8
# Training stops when more than this share of the draws so far (at least 20 failures) was unreadable.
_C.DATA.MAX_UNREADABLE_FRACTION = 0.1
# Several sources in one run, in place of PATH_TO_DATA_DIR, every optimiser step from one of them. PATHS has an element
# per source; each of the other lists too, or one element for all.
_C.DATA.MIX = Node()
_C.DATA.MIX.PATHS = [""]  # as PATH_TO_DATA_DIR; [""] = no mix
_C.DATA.MIX.FORMATS = ["auto"]  # as FORMAT
_C.DATA.MIX.PREFIXES = [""]  # as PATH_PREFIX
_C.DATA.MIX.WEIGHTS = [1.0]  # shares of the optimiser steps; their sum does not matter
_C.DATA.MIX.NUM_FRAMES = [0]  # frames in a clip: 1 (images) or a multiple of the patch's; 0 = DATA.NUM_FRAMES
_C.DATA.MIX.SAMPLING_RATES = [0]  # as SAMPLING_RATE; 0 = DATA.SAMPLING_RATE

_C.AUGMENT = Node()
# "random_resized" (DATA.CROP_SCALE, CROP_ASPECT) or "multi_scale" (VideoMAE: sides of 1, .875, .75, .66 of the shorter
# side, at one of 13 places)
_C.AUGMENT.CROP = "random_resized"
_C.AUGMENT.COLOR_JITTER = 0.0  # v: brightness, contrast and saturation change by factors in [1 - v, 1 + v]; 0 = off
_C.AUGMENT.GRAYSCALE = 0.0  # share of the clips that become black and white
# Of classifiers only:
_C.AUGMENT.RAND_AUGMENT = ""  # timm's notation, such as "rand-m7-n4-mstd0.5-inc1"; "" = off
_C.AUGMENT.RAND_AUGMENT_FIRST = False  # before the crop, as the published video recipes do: slower
_C.AUGMENT.ERASING = 0.0  # share of the clips of which a random box is replaced by noise
_C.AUGMENT.MIXUP = 0.0  # alpha of Mixup; 0 = off
_C.AUGMENT.CUTMIX = 0.0  # alpha of CutMix; 0 = off
_C.AUGMENT.MIX_PROBABILITY = 1.0  # share of the batches that are mixed, where one of the two is on
_C.AUGMENT.MIX_SWITCH_PROBABILITY = 0.5  # share of the mixed batches that CutMix mixes, where both are on
_C.AUGMENT.LABEL_SMOOTHING = 0.0  # share of a target that is spread over all classes

_C.DATA_LOADER = Node()
_C.DATA_LOADER.NUM_WORKERS = 8  # decoding processes; 0 = decode in the training process
_C.DATA_LOADER.PREFETCH_FACTOR = 2  # batches that every worker prepares ahead
_C.DATA_LOADER.PIN_MEMORY = True  # page-locked batches for faster copies to a GPU (ignored on CPU)

# ------------------------------------------------------------------------------------------------------------- model
_C.MODEL = Node()
# Run folder or checkpoint whose weights a run starts from, or that "test" measures; "" = random initialisation. What
# fits is loaded, resized or, by name, left out (docs/recognition.md); anything else is an error.
_C.MODEL.WEIGHTS = ""
# Of weights for one frame per patch in a model with more: every frame gets its share ("average"), or one all ("center")
_C.MODEL.INFLATION = "average"
_C.MODEL.NUM_CLASSES = 0  # of a classifier; 0 = as many as the lists of the training and the test set have
# "DiffMAE", "MAE" (learned mask token in place of the noisy patch) or "LatentDAE" (l-DAE: nothing is masked). A
# classifier has the encoder of that model.
_C.MODEL.NAME = "DiffMAE"
_C.MODEL.PATCH_SIZE = [2, 16, 16]  # (pt, ph, pw): frames, rows, columns of one patch
_C.MODEL.PREDICTION = "x0"  # what the network predicts: "x0" (clean patches), "eps" (noise), "v" (velocity)
# Noisy patches enter the decoder as they are, or as an estimate of the clean ones: "signal" (times sqrt(abar_t)) or
# "wiener" (every spatial frequency by what it tells; for PREDICTION x0); models/noisy_input.py explains.
_C.MODEL.INPUT_SCALING = "none"
# "raw" pixels (can be sampled from); for recognition only, pixels "normalized" over every patch (MAE, MAE-ST), or over
# every channel of it ("normalized_per_channel", VideoMAE).
_C.MODEL.TARGET = "raw"
# Frames of a patch that are predicted: "all", or one of them, for recognition with MAE: "linspace" (MAE-ST: evenly from
# the clip's first frame to its last) or "first".
_C.MODEL.TARGET_FRAMES = "all"

# Of fixed positions: their slowest wave is 2 pi * this many tokens long. Small grids want less (the demo: 30).
_C.MODEL.POSITION_TEMPERATURE = 10000.0

_C.MODEL.ENCODER = Node()
# "tiny", "small", "base", "large", "huge": sets the next three values where they are 0
_C.MODEL.ENCODER.SIZE = "large"
_C.MODEL.ENCODER.WIDTH = 0  # token width D
_C.MODEL.ENCODER.DEPTH = 0  # number of blocks
_C.MODEL.ENCODER.HEADS = 0  # attention heads; divides WIDTH
_C.MODEL.ENCODER.MLP_RATIO = 4.0  # hidden width of the MLP / WIDTH
# "separable" (learned, space + time), "learned" (one per token), "sincos" (fixed, space + time; WIDTH % 4 == 0) or
# "sincos_1d" (fixed, of the token's number: VideoMAE; WIDTH % 2 == 0).
_C.MODEL.ENCODER.POSITION = "separable"
_C.MODEL.ENCODER.CLASS_TOKEN = False  # prepend a learned class token
_C.MODEL.ENCODER.DROP_PATH = 0.0  # stochastic depth of the last block; earlier blocks scale down linearly to 0

_C.MODEL.HEAD = Node()
_C.MODEL.HEAD.POOL = "mean"  # what a classifier reads: "mean" of the patch tokens, or the "class_token"
_C.MODEL.HEAD.DROPOUT = 0.0  # before the last linear layer
_C.MODEL.HEAD.INIT_STD = 2e-5  # standard deviation of the last linear layer's initial weights
_C.MODEL.HEAD.PROBE_HEADS = 0  # attention heads of the attentive probe; 0 = as many as the encoder has
_C.MODEL.HEAD.PROBE_DEPTH = 1  # blocks of the attentive probe, the one of its query included

_C.MODEL.DECODER = Node()
# "cross_self" (per block: cross-attention to the visible latents, self-attention, MLP), "cross" (no self-attention:
# hidden tokens are decoded independently) or "joint" (self-attention over visible and hidden tokens together).
_C.MODEL.DECODER.TYPE = "cross_self"
_C.MODEL.DECODER.WIDTH = 512  # token width d
_C.MODEL.DECODER.DEPTH = 8  # number of blocks; for the cross decoders at most the encoder's depth
_C.MODEL.DECODER.HEADS = 16  # attention heads; divides WIDTH
_C.MODEL.DECODER.MLP_RATIO = 4.0  # hidden width of the MLP / WIDTH
_C.MODEL.DECODER.POSITION = "sincos"  # as MODEL.ENCODER.POSITION
# Of "joint": a learned class token of the decoder's own in place of the encoder's (MAE-ST).
_C.MODEL.DECODER.CLASS_TOKEN = False
# Of "joint" without it: a learned position of the encoder's class token (MAE-ST as PySlowFast has it).
_C.MODEL.DECODER.CLASS_POSITION = False
# Share of the hidden tokens that training decodes; the loss is over these. Below 1 is faster.
_C.MODEL.DECODER.PREDICT_RATIO = 1.0
# Which of them: at "random", or by a "running_cell" (VideoMAE V2: every place in turn).
_C.MODEL.DECODER.PREDICT_PATTERN = "running_cell"

# Of LatentDAE, whose decoder is MODEL.DECODER.DEPTH more blocks of the encoder's kind; docs/ldae.md explains.
_C.MODEL.LDAE = Node()
# Noise is added to patches as "pca" (principal components), "patch_ae" or "patch_vae" (linear autoencoder or VAE),
# "conv_vae" (latents of VAE_PATH) or "pixel" (as they are) represents them.
_C.MODEL.LDAE.TOKENIZER = "pca"
_C.MODEL.LDAE.LATENT_DIM = 32  # components that "pca", "patch_ae" and "patch_vae" keep of a patch
_C.MODEL.LDAE.LATENT_SCALE = "global"  # variance 1 on average ("global"), of every "component", or as it is ("none")
_C.MODEL.LDAE.INPUT = "image"  # the network sees noisy patches ("image": through the inverse tokenizer) or "latent"s
_C.MODEL.LDAE.OUTPUT = "image"  # the network predicts patches ("image") or "latent"s
_C.MODEL.LDAE.RESIDUAL_WEIGHT = 0.1  # of OUTPUT "image": weight of what the latent leaves out; what it keeps has 1
_C.MODEL.LDAE.TIME_WEIGHT = True  # the loss at noise sigma (for a signal of scale 1) has the factor 1 / (1 + sigma^2)
# Timestep, of DIFFUSION.STEPS, that the encoder is told when it sees a clean clip: features, probes, fine-tuning.
_C.MODEL.LDAE.PROBE_TIMESTEP = 0
# Training clips that the tokenizer is fitted to before the first step; at most an epoch.
_C.MODEL.LDAE.FIT_CLIPS = 10000
_C.MODEL.LDAE.FIT_STEPS = 2000  # optimiser steps of "patch_ae" and "patch_vae", of 1024 patches each
_C.MODEL.LDAE.KL_WEIGHT = 0.1  # of "patch_vae": of the divergence in its loss
_C.MODEL.LDAE.VAE_PATH = ""  # of "conv_vae": folder of an AutoencoderKL as `diffusers` saves it
_C.MODEL.LDAE.CLASS_CONDITIONING = False  # pre-training is told the labels; needs MODEL.NUM_CLASSES
_C.MODEL.LDAE.CLASS_DROPOUT = 0.1  # share of the clips of which it is not

# A second head that predicts CLIP's features of every decoded patch, beside the pixels.
_C.MODEL.CLIP = Node()
_C.MODEL.CLIP.WEIGHTS = ""  # folder of a CLIP vision model as `transformers` saves it; "" = no such head
_C.MODEL.CLIP.WIDTH = 0  # of its features; 0 = as the folder says. A model that was trained with the head has it here
_C.MODEL.CLIP.LAYER = -1  # block whose output is the target, from the end: -1 is the last
_C.MODEL.CLIP.LOSS = "cosine"  # "cosine" (1 - cos of the angle) or "mse" (of features normalised to mean 0, variance 1)
_C.MODEL.CLIP.LOSS_WEIGHT = 1.0  # of the features in the loss
_C.MODEL.CLIP.PIXEL_WEIGHT = 1.0  # of the pixels in the loss, beside features; 0 = features alone

# ------------------------------------------------------------------------------------------------------ mask, diffusion
_C.MASK = Node()
# "tube" (same spatial mask in every time slot), "random" (space-time agnostic), "frame" (whole time slots),
# "block" (one space-time block), "center" (central square, every time slot).
_C.MASK.STRATEGY = "tube"
_C.MASK.RATIO = 0.9  # share of the tokens that is hidden, in (0, 1)
# Several strategies in one run: every micro-batch draws one, and a ratio from its range. STRATEGIES has an element per
# strategy; each of the other lists too, or one element for all. The two keys above still mask sample reconstructions.
_C.MASK.MIX = Node()
_C.MASK.MIX.STRATEGIES = [""]  # as STRATEGY, each at most once; [""] = no mix
_C.MASK.MIX.WEIGHTS = [1.0]  # shares of the micro-batches; their sum does not matter
_C.MASK.MIX.RATIOS_LOW = [0.5]  # smallest RATIO; drawn uniformly from here ...
_C.MASK.MIX.RATIOS_HIGH = [0.9]  # ... to here, the largest

_C.DIFFUSION = Node()
# "linear", "cosine", "quadratic", "linear_gamma" (abar from 1 to 0), or for LatentDAE "linear_sigma" (noise from 0 to
# sqrt(2), added to a signal of scale 1).
_C.DIFFUSION.SCHEDULE = "linear"
_C.DIFFUSION.STEPS = 1000  # T, number of noise levels
_C.DIFFUSION.RHO = 1.0  # every beta is raised to this power; below 1 = more noise
# Part of the noise levels that training draws from, as shares of STEPS: [1, 1] = the last alone, whose input carries no
# signal (MAE, in effect); equal ends = a single noise level.
_C.DIFFUSION.TRAIN_RANGE = [0.0, 1.0]

# -------------------------------------------------------------------------------------------------------- optimisation
_C.SOLVER = Node()
_C.SOLVER.BATCH_SIZE = 64  # clips per optimiser step, over all processes and accumulation steps
_C.SOLVER.ACCUMULATION_STEPS = 1  # micro-batches per optimiser step; divides BATCH_SIZE
_C.SOLVER.EPOCHS = 800.0  # effective epochs: clips seen / videos in the training set
_C.SOLVER.MAX_STEPS = 0  # stop after so many optimiser steps whatever EPOCHS says (sets the schedule too); 0 = off
_C.SOLVER.WARMUP_EPOCHS = 40.0  # linear warm-up from 0, in effective epochs; cut to a tenth of a run set by MAX_STEPS
_C.SOLVER.BASE_LR = 1.5e-4  # peak lr = BASE_LR * BATCH_SIZE / BASE_BATCH_SIZE
_C.SOLVER.BASE_BATCH_SIZE = 256  # batch (clips) at which BASE_LR is the peak lr
_C.SOLVER.MIN_LR = 0.0  # lr at the end of the cosine
_C.SOLVER.OPTIMIZER = "adamw"  # "adamw", "sgd" or "lars" (probes)
_C.SOLVER.BETAS = [0.9, 0.95]  # of AdamW
_C.SOLVER.MOMENTUM = 0.9  # of SGD and LARS
_C.SOLVER.LAYER_DECAY = 1.0  # lr of a layer / lr of the layer above it, the head at the top; 1 = one lr for all
_C.SOLVER.WEIGHT_DECAY = 0.05  # not applied to biases, norms, position embeddings and tokens
_C.SOLVER.CLIP_GRAD_NORM = 0.0  # largest L2 norm of the gradient; 0 = no clipping

_C.TRAIN = Node()
_C.TRAIN.PRECISION = "bf16"  # "bf16" (autocast) or "fp32"
# Blocks whose forward pass is computed once more in the backward pass, so that only their inputs are kept: "none",
# "full" (all) or "selective" (every ACTIVATION_CHECKPOINT_EVERY-th). Less memory, more time: docs/scaling.md.
_C.TRAIN.ACTIVATION_CHECKPOINTING = "none"
_C.TRAIN.ACTIVATION_CHECKPOINT_EVERY = 2  # of "selective"
_C.TRAIN.COMPILE = "none"  # "none", or "blocks": torch.compile of every transformer block
_C.TRAIN.EMA_DECAY = 0.0  # of the exponential moving average of the weights, which is then what is measured; 0 = off
# Optimiser steps between two evaluations of a classifier on TEST.SPLIT; 0 = only after the last step.
_C.TRAIN.EVAL_PERIOD = 0
_C.TRAIN.AUTO_RESUME = True  # go on from the newest checkpoint of OUTPUT_DIR
_C.TRAIN.LOG_PERIOD = 10  # optimiser steps between two log lines
_C.TRAIN.CHECKPOINT_PERIOD = 500  # optimiser steps between two checkpoints that "latest" points to
_C.TRAIN.KEEP_LAST = 2  # so many of the newest checkpoints are kept
_C.TRAIN.KEEP_PERIOD = 0  # optimiser steps between two checkpoints that are kept for good besides; 0 = none are
# A checkpoint is a "file", which the first process writes, or "sharded": a folder that every process writes its part
# of, for models that no process should have to gather. A run can change it; docs/checkpoints.md tells more.
_C.TRAIN.CHECKPOINT_FORMAT = "file"
_C.TRAIN.CHECKPOINT_ASYNC = False  # of "sharded": it is written while the run goes on, from a copy in the host's memory
_C.TRAIN.ON_FULL_DISK = "continue"  # without the checkpoint, which is said in the log; or "stop" (exit code 2)
_C.TRAIN.VISUALIZE_PERIOD = 0  # optimiser steps between two sample reconstructions (PNG and TensorBoard); 0 = never
_C.TRAIN.VISUALIZE_STEPS = 20  # sampling steps of those reconstructions
_C.TRAIN.TENSORBOARD = True  # write TensorBoard events to OUTPUT_DIR/tensorboard
# Weights & Biases: "" (no), "offline" (files in OUTPUT_DIR/wandb) or "online"; needs the package wandb.
_C.TRAIN.WANDB = ""
_C.TRAIN.WANDB_PROJECT = "diffmae_video"  # where Weights & Biases lists the run
# What one device could do at TRAIN.PRECISION, 10^12 operations per second, for the MFU; 0 = measured before the run.
_C.TRAIN.PEAK_TFLOPS = 0.0

# -------------------------------------------------------------------------------------------------------- measuring
_C.TEST = Node()
_C.TEST.SPLIT = "val"  # list or folder of the data that is measured
_C.TEST.NUM_ENSEMBLE_VIEWS = 1  # clips along the time of a video, whose scores are averaged
_C.TEST.NUM_SPATIAL_CROPS = 1  # crops of every such clip along the longer side; 1 = the centre
_C.TEST.BATCH_SIZE = 8  # videos read at a time
_C.TEST.UNREADABLE = "leave_out"  # videos that cannot be read are reported and "leave_out", or "wrong"

# Of "inpaint_eval": the clips of TEST.SPLIT are filled by MODEL.WEIGHTS and by what they are compared with.
_C.INPAINT = Node()
_C.INPAINT.MASKS = ["tube"]  # each as tools/inpaint.py --mask takes it, a table each; docs/inpainting.md has all forms
_C.INPAINT.RATIO = 0.0  # share of the patches that strategies hide, below 1; 0 = as in training, or 0.5
_C.INPAINT.SAMPLERS = ["ddim"]  # "ddim", "ddpm", "dpmpp_2m"
_C.INPAINT.STEPS = [20]  # sampling steps; every one with every sampler
_C.INPAINT.SPACING = "trailing"  # of the timesteps: even ("trailing"), or "karras"
_C.INPAINT.ETA = 0.0  # noise between the steps of "ddim": 0 = none, 1 = that of "ddpm"
_C.INPAINT.THRESHOLD = 0.0  # share of the values that dynamic thresholding keeps in range, such as 0.995; 0 = off
_C.INPAINT.IMPUTE = True  # visible pixels of hidden patches steer the sampling
# Patches that begin half a patch apart are averaged: in "time", against jumps; "all": late in the chain in space too,
# against seams; "none" = faster.
_C.INPAINT.OVERLAP = "time"
_C.INPAINT.SAMPLES = 1  # results per clip, of different seeds: the best of them, and how much they differ
_C.INPAINT.COMPARE = [""]  # run folders or checkpoints of more models of the same clips; [""] = none
_C.INPAINT.FILLS = ["mean", "nearest_patch", "temporal", "opencv"]  # fills without a network; [] = none
_C.INPAINT.MAX_CLIPS = 0  # clips that are measured, evenly spread over the list; 0 = all
_C.INPAINT.LPIPS_BACKBONE = ""  # file of an AlexNet or VGG-16; "" = no LPIPS
_C.INPAINT.LPIPS_HEADS = ""  # file of the linear heads that belong to it
_C.INPAINT.FEATURE_WEIGHTS = ""  # run folder or checkpoint whose features the Fréchet distance compares; "" = none

_C.KNN = Node()
_C.KNN.K = 20  # neighbours that vote
_C.KNN.TEMPERATURE = 0.07  # a neighbour of cosine similarity s votes with weight exp(s / TEMPERATURE)


def get_cfg() -> Node:
    """A fresh, mutable copy of the defaults."""
    return _C.clone()
