"""A microphone and a loudspeaker: live sound through the codec."""
