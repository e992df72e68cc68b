"""Behind ``diffmae_video.data.read_frames``: one module per decoder, and the index of a file that keeps them exact."""
